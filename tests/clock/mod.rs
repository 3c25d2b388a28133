//! docs/CONTRACT.md, "The day", for the embedded stores: steps of the wall clock.

mod processes;
mod sequences;
mod steps;
