//! How much a model takes and makes: what bounds a request before it is dispatched.

use std::fmt;

/// The capacity of a model, in tokens. The default is that of a model about which nothing is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelCapacity {
    /// The context window.
    pub context: u64,
    /// The largest output of a request, reasoning included.
    pub max_output: u64,
    /// The most that one image of the input counts.
    pub image: u64,
}

impl ModelCapacity {
    /// The largest value of each field.
    pub const MAX: u64 = 1_000_000_000;
}

impl Default for ModelCapacity {
    fn default() -> Self {
        Self {
            context: 200_000,
            max_output: 100_000,
            image: 50_000,
        }
    }
}

impl fmt::Display for ModelCapacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            context,
            max_output,
            image,
        } = self;
        write!(
            f,
            "context {context} + max_output {max_output} + image {image}"
        )
    }
}
