//! docs/CONTRACT.md, "The day", over the embedded stores: a wall clock that is stepped.

mod processes;
mod sequences;
mod steps;
