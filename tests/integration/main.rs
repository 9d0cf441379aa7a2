//! Integration tests: the real binary, real PostgreSQL, real Redis. One test binary, one file a room.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "a test fails by panicking"
)]

mod acceptance;
mod architecture;
mod cases;
mod chaos;
mod check;
mod deploy;
mod fuzz;
mod harness;
mod init;
mod program;
mod readme;
mod sink;
mod soak;
mod wire;
