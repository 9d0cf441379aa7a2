//! `/api/redis-health/user/{userId}/...`: one user compared, and written again.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use percent_encoding::percent_decode_str;

use super::Facts;
use super::envelope::{envelope, no_answer};
use crate::inspect::{Inspector, Name, NoAnswer};

/// The user type where none is said.
const DEFAULT_TYPE: &str = "live";

type UserId = Result<Path<String>, PathRejection>;

pub(super) async fn consistency(State(facts): State<Facts>, id: UserId, query: RawQuery) -> Response {
    let inspector = match facts.inspector() {
        Ok(inspector) => inspector,
        Err(answer) => return *answer,
    };
    let compared = match name(inspector, id, query) {
        Ok(name) => inspector.consistency(&name).await,
        Err(mistake) => Err(mistake),
    };
    match compared {
        Ok(report) => {
            let message = match (report.is_consistent, report.in_flight) {
                (true, _) => "redis holds what the database holds",
                (false, true) => {
                    "the stream has not come to what the database holds: what differs may be on its way"
                }
                (false, false) => "redis differs from the database",
            };
            envelope(StatusCode::OK, message, &report)
        }
        Err(why) => no_answer(&why),
    }
}

pub(super) async fn refresh(State(facts): State<Facts>, id: UserId, query: RawQuery) -> Response {
    let inspector = match facts.inspector() {
        Ok(inspector) => inspector,
        Err(answer) => return *answer,
    };
    let written = match name(inspector, id, query) {
        Ok(name) => inspector.refresh(&name).await,
        Err(mistake) => Err(mistake),
    };
    match written {
        Ok(refreshed) => envelope(StatusCode::OK, "all keys of the user were written again", &refreshed),
        Err(why) => no_answer(&why),
    }
}

fn name(inspector: &Inspector, id: UserId, RawQuery(query): RawQuery) -> Result<Name, NoAnswer> {
    let mistake = |words: &str| NoAnswer::Mistake(words.to_owned());
    let Path(id) = id.map_err(|_| mistake("userId is not UTF-8"))?;
    let user_type = user_type(query.as_deref().unwrap_or_default()).map_err(mistake)?;
    inspector.name(user_type.as_deref().unwrap_or(DEFAULT_TYPE), &id)
}

/// `userType` of a query; other parameters say nothing here.
fn user_type(query: &str) -> Result<Option<String>, &'static str> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text).decode_utf8().map(std::borrow::Cow::into_owned)
    };
    let mut found = None;
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if decode(name).as_deref() != Ok("userType") {
            continue;
        }
        let value = decode(value).map_err(|_| "userType is not UTF-8")?;
        if found.replace(value).is_some() {
            return Err("userType is said more than once");
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_type_is_said_once_and_decoded() {
        for (query, expected) in [
            ("", Ok(None)),
            ("other=1&x", Ok(None)),
            ("userType=demo", Ok(Some("demo"))),
            ("a=1&userType=a%20b+c", Ok(Some("a b c"))),
            ("user%54ype=demo", Ok(Some("demo"))),
            ("userType", Ok(Some(""))),
            ("userType=", Ok(Some(""))),
            ("userType=live&userType=live", Err("userType is said more than once")),
            ("userType=%ff", Err("userType is not UTF-8")),
        ] {
            assert_eq!(user_type(query), expected.map(|text| text.map(str::to_owned)), "{query}");
        }
    }
}
