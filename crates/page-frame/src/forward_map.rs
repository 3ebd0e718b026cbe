//! Implementing [`PageMap`](crate::PageMap) by asking another map: for adapters and page sources that embed one.

/// The caller's promise to [`forward_page_map!`].
#[derive(Debug)]
pub struct SameMap(());

impl SameMap {
    /// Makes the promise.
    ///
    /// # Safety
    /// 1. The expression given to [`forward_page_map!`] names the same map each time, which lives and stays where it is as long
    ///    as the value that it is forwarded for.
    pub const unsafe fn promised() -> Self {
        Self(())
    }
}

/// Implements [`PageMap`](crate::PageMap) by asking another map, for adapters and page sources that embed one.
///
/// The trait is an unsafe one, so the caller promises what it asks for, in an `unsafe` block of its own: [`SameMap::promised`].
///
/// ```
/// use page_frame::PageMap;
/// struct Adapter<'a>(page_frame::Arena<'a>);
/// page_frame::forward_page_map!(
///     impl['a] for Adapter<'a>, |this| this.0,
///     // SAFETY: clause 1: the field, always.
///     unsafe { page_frame::SameMap::promised() }
/// );
/// ```
///
/// A crate that forbids unsafe code cannot:
///
/// ```compile_fail
/// #![forbid(unsafe_code)]
/// use page_frame::PageMap;
/// struct Adapter<'a>(page_frame::Arena<'a>);
/// page_frame::forward_page_map!(
///     impl['a] for Adapter<'a>, |this| this.0,
///     unsafe { page_frame::SameMap::promised() }
/// );
/// ```
///
/// ```compile_fail,E0133
/// use page_frame::PageMap;
/// struct Adapter<'a>(page_frame::Arena<'a>);
/// page_frame::forward_page_map!(
///     impl['a] for Adapter<'a>, |this| this.0, page_frame::SameMap::promised()
/// );
/// ```
#[macro_export]
macro_rules! forward_page_map {
    (impl[$($generics:tt)*] for $type:ty, |$this:ident| $inner:expr, $promise:expr) => {
        const _: $crate::SameMap = $promise;

        // SAFETY: every method forwards to the same map, as `$promise` says.
        unsafe impl<$($generics)*> $crate::PageMap for $type {
            #[inline]
            fn tag(&self, address: usize) -> $crate::Tag {
                let $this = self;
                ($inner).tag(address)
            }

            #[inline]
            fn tag_range(&self) -> $crate::TagRange {
                let $this = self;
                ($inner).tag_range()
            }

            #[inline]
            fn owner(&self, address: usize) -> *mut () {
                let $this = self;
                ($inner).owner(address)
            }

            unsafe fn set_owner(
                &self,
                start: core::ptr::NonNull<u8>,
                pages: usize,
                tag: $crate::Tag,
                owner: core::ptr::NonNull<()>,
            ) {
                let $this = self;
                // SAFETY: the caller's clause is that of the map asked.
                unsafe { ($inner).set_owner(start, pages, tag, owner) }
            }

            unsafe fn clear_owner(&self, start: core::ptr::NonNull<u8>, order: $crate::Order) {
                let $this = self;
                // SAFETY: the caller's clause is that of the map asked.
                unsafe { ($inner).clear_owner(start, order) }
            }

            unsafe fn set_run(&self, start: core::ptr::NonNull<u8>, pages: usize) {
                let $this = self;
                // SAFETY: the caller's clause is that of the map asked.
                unsafe { ($inner).set_run(start, pages) }
            }

            unsafe fn clear_run(&self, start: core::ptr::NonNull<u8>, order: $crate::Order) {
                let $this = self;
                // SAFETY: the caller's clause is that of the map asked.
                unsafe { ($inner).clear_run(start, order) }
            }

            #[inline]
            fn pointer(&self, address: usize) -> core::ptr::NonNull<u8> {
                let $this = self;
                ($inner).pointer(address)
            }
        }
    };
}
pub(crate) use forward_page_map;
