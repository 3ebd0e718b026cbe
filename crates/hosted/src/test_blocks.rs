//! Blocks for unit tests: a test that fails leaks its blocks instead of panicking a second time.

use core::mem::ManuallyDrop;

use page_frame::{Order, PageBlock, PageSource};

use crate::pages::Pages;

/// A block whose drop leaks it.
pub(crate) type Block = ManuallyDrop<PageBlock>;

/// Allocates blocks, sorted by address.
pub(crate) fn take(pages: &Pages, order: u8, count: usize) -> Vec<Block> {
    let order = Order::new(order).expect("an order");
    let take = |_| Block::new(pages.allocate(order).expect("address space"));
    let mut blocks: Vec<_> = (0..count).map(take).collect();
    blocks.sort_by_key(|block| block.start().addr());
    blocks
}

pub(crate) fn free(pages: &Pages, blocks: impl IntoIterator<Item = Block>) {
    for block in blocks {
        // SAFETY: the caller passes blocks of these pages, which are not used any more.
        unsafe { pages.free(Block::into_inner(block)) };
    }
}

/// Divides blocks into every other one and the rest, so that no two blocks of a half are
/// neighbours.
pub(crate) fn halves(blocks: Vec<Block>) -> (Vec<Block>, Vec<Block>) {
    let numbered = blocks.into_iter().enumerate();
    let (even, odd): (Vec<_>, Vec<_>) = numbered.partition(|(index, _)| index % 2 == 0);
    let bare = |half: Vec<(usize, Block)>| half.into_iter().map(|(_, block)| block);
    (bare(even).collect(), bare(odd).collect())
}

pub(crate) fn fill(block: &Block) {
    // SAFETY: all of a block that the test has.
    unsafe { block.start().write_bytes(7, block.order().bytes()) };
}
