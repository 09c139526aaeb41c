//! What the programs here share with the host tools that look at what they left.

pub mod marks;
