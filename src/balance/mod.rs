//! Transactions -> [`Event`]s: one for each user and window, with the values Redis will hold. No IO.
//!
//! A [`Mapping`] knows which relation is a table of users or of transactions and which of its columns are
//! followed; `join` makes one event of all rows of one user.

pub mod amount;
pub mod event;
mod join;
mod layout;
pub mod mapping;
#[cfg(test)]
mod tests;
pub mod time;
pub mod user;
pub mod value;

pub use amount::{Amount, NotDecimal};
pub use event::{Completed, Doubt, Event, Kind, Output, Refusal, Refused, Reread, Truncated};
pub use layout::MappingGap;
pub use mapping::Mapping;
pub use user::User;
pub use value::{Field, Value};
