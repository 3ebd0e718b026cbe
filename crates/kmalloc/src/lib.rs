//! Memory of any size: which size class serves a request.
//!
//! # Theory
//! A request is narrowed once: from a layout to a **class**, an object size that a cache of its own serves. Few classes
//! mean few half-empty slabs; many mean little waste inside objects. [`ClassIndex`] holds the compromise and its bounds,
//! as `const fn`, so that the class of a constant size is a constant.
//!
//! ```
//! use core::alloc::Layout;
//! use kmalloc::ClassIndex;
//! // Starting from 20 bytes:
//! const CLASS: ClassIndex = ClassIndex::for_size(20).unwrap();
//! assert_eq!(CLASS.size(), 24);
//! // An aligned request takes the smallest class that is naturally aligned enough:
//! let aligned = ClassIndex::for_layout(Layout::from_size_align(20, 64)?).unwrap();
//! assert_eq!((aligned.size(), aligned.alignment()), (64, 64));
//! # Ok::<(), core::alloc::LayoutError>(())
//! ```
#![no_std]

mod class;

pub use class::{ClassIndex, LARGEST};
