//! Pictures: what a part of one stands for and how it looks, on terminals and as SVG.

pub mod chart;
pub mod page;
pub mod painted;
mod scale;
pub mod style;
pub mod svg;
pub mod text;
pub mod tips;
