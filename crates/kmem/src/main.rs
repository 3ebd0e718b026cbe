//! kmem
fn main() {}
