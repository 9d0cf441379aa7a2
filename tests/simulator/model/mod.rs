//! Models of the two servers: as much of them as Lockstep can see.

pub mod keyspace;
pub mod pgoutput;
pub mod postgres;
pub mod redis;
pub mod walsender;
