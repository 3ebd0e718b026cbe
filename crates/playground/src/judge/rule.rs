//! The rules of a buddy allocator.

use alloc::string::String;

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// The line is not understood.
    Format,
    /// The request itself makes no sense, whoever serves it.
    Request,
    /// A block lies in memory.
    Outside,
    /// A block is aligned to its size.
    Aligned,
    /// A unit belongs to one block.
    Overlap,
    /// A request is refused only if no free block is large enough.
    Refusal,
    /// A block is freed once.
    DoubleFree,
    /// Two free buddies merge.
    Merge,
    /// Only buddies merge.
    Buddies,
    /// The policy that the script asks for.
    Policy,
    /// A claim about the state is true.
    State,
}

/// A rule that was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) rule: Rule,
    pub(super) why: String,
}

impl Broken {
    pub(super) fn new(rule: Rule, why: impl Into<String>) -> Self {
        Self { rule, why: why.into() }
    }
}

impl Rule {
    /// Returns a short name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Format => "not understood",
            Self::Request => "wrong request",
            Self::Outside => "outside memory",
            Self::Aligned => "misaligned",
            Self::Overlap => "overlap",
            Self::Refusal => "refused without need",
            Self::DoubleFree => "double free",
            Self::Merge => "not merged",
            Self::Buddies => "merged without being buddies",
            Self::Policy => "other than the policy",
            Self::State => "wrong state",
        }
    }

    /// Returns the rule as a sentence.
    pub(super) const fn sentence(self) -> &'static str {
        match self {
            Self::Format => "Each line is a request, a claim or a comment.",
            Self::Request => "A name is allocated once before it is freed, and freed once.",
            Self::Outside => "A block lies inside memory.",
            Self::Aligned => "A block begins at a multiple of its own size.",
            Self::Overlap => "A unit of memory belongs to one block at a time.",
            Self::Refusal => "A request is refused only if it cannot be served.",
            Self::DoubleFree => "A block is freed once; a second free must be refused.",
            Self::Merge => "Two free buddies merge at once into the block they were split from.",
            Self::Buddies => "Only buddies merge: the two halves of one aligned block.",
            Self::Policy => "The script asks for this policy.",
            Self::State => "The state follows from the requests and the answers.",
        }
    }
}
