//! The estimates of requests: an upper bound on their tokens.

mod table;
mod tokenizer;
