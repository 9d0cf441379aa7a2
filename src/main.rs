//! The `lockstep` program.

#![forbid(unsafe_code)]

use std::process::ExitCode;

/// Gives back to the system what a burst took, and does not let the heap be split between threads; `.cargo/config.toml`
/// says when.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    lockstep::cli::main()
}
