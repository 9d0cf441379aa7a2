//! What administrators of the platform do, as SQL, and what must be heard of it.

use crate::harness::world::Movement;

/// One operation.
pub struct Operation {
    pub name: &'static str,
    /// Statements of one call; they hold their own `BEGIN` where they are more than one transaction.
    pub sql: String,
    /// Who is concerned, `live:1`: their derived keys are gone afterwards.
    pub users: Vec<&'static str>,
    /// Event type, user and `operation_type` of every event.
    pub events: Vec<(&'static str, String, Option<&'static str>)>,
}

impl Operation {
    fn new(name: &'static str, sql: impl Into<String>) -> Operation {
        Operation { name, sql: sql.into(), users: Vec::new(), events: Vec::new() }
    }

    fn tells(mut self, event: &'static str, user: &'static str) -> Operation {
        self.users.push(user);
        self.events.push((event, user.to_owned(), None));
        self
    }

    fn books(mut self, user: &'static str, kind: &'static str) -> Operation {
        self.users.push(user);
        self.events.push(("balance_change", user.to_owned(), Some(kind)));
        self
    }
}

/// A movement of money in one transaction.
fn moves(id: u32, kind: &str, amount: &str, admin: Option<u32>) -> String {
    Movement { kind, amount, admin, reference: None }.statements(id).0
}

fn row(transaction_id: &str, id: u32, kind: &str, amount: &str, status: &str) -> String {
    format!(
        "INSERT INTO user_transactions (transaction_id, user_id, user_type, type, amount, status, admin_id) \
         VALUES ('{transaction_id}', {id}, 'live', '{kind}', {amount}, '{status}', 9);"
    )
}

fn transaction(statements: &[String]) -> String {
    format!("BEGIN; {} COMMIT", statements.join(" "))
}

const NEW_USER: &str = "INSERT INTO users (id, user_type, email, password_hash, wallet_balance, leverage, \"group\", \
                        status, is_active, account_number) VALUES";
/// Users of the import.
const IMPORTED: std::ops::RangeInclusive<u32> = 101..=130;

/// In the order in which they are done; each finds what those before it have left.
pub fn all() -> Vec<Operation> {
    let mut operations = Vec::new();
    operations.extend(accounts());
    operations.extend(money());
    operations.extend(settings());
    operations.extend(approvals());
    operations.extend(en_masse());
    operations.extend(endings());
    operations
}

fn accounts() -> Vec<Operation> {
    let values = |id: u32, user_type: &str, balance: &str| {
        let email = format!("{user_type}{id}@example.com");
        format!(
            "({id}, '{user_type}', '{email}', 'argon2', {balance}, 100, 'standard', 'active', true, 'ACC{id}')"
        )
    };
    let two = format!("{NEW_USER} {}, {}", values(2, "live", "100.50"), values(3, "demo", "10000"));
    vec![
        Operation::new("create a user", format!("{NEW_USER} {}", values(1, "live", "0")))
            .tells("user_created", "live:1"),
        Operation::new("create two users at once", two)
            .tells("user_created", "live:2")
            .tells("user_created", "demo:3"),
        Operation::new(
            "create a user, rolled back",
            format!("BEGIN; {NEW_USER} {}; ROLLBACK", values(4, "live", "1")),
        ),
    ]
}

fn money() -> Vec<Operation> {
    let transfer = [moves(1, "transfer", "-120.25", None), moves(2, "transfer", "120.25", None)];
    let bonus = [moves(1, "credit", "50", Some(9)), moves(1, "bonus", "12.5", Some(9))];
    vec![
        Operation::new("deposit", transaction(&[moves(1, "deposit", "500", Some(9))]))
            .books("live:1", "deposit"),
        Operation::new("withdrawal", transaction(&[moves(1, "withdraw", "-99.999999", Some(9))]))
            .books("live:1", "withdraw"),
        Operation::new("transfer between two users", transaction(&transfer))
            .books("live:1", "transfer")
            .books("live:2", "transfer"),
        Operation::new("credit and bonus", transaction(&bonus)).books("live:1", "bonus"),
        Operation::new("profit of a trade", transaction(&[moves(2, "profit", "7.13", None)]))
            .books("live:2", "profit"),
        Operation::new("loss, swap and commission", {
            let booked = [("loss", "-3"), ("swap", "-0.5"), ("commission", "-0.125")];
            transaction(&booked.map(|(kind, amount)| moves(2, kind, amount, None)))
        })
        .books("live:2", "commission"),
        Operation::new(
            "correction by hand in psql",
            "UPDATE users SET wallet_balance = 1234.56 WHERE id = 2",
        )
        .tells("balance_change", "live:2"),
        Operation::new(
            "deposit, rolled back",
            format!("BEGIN; {} ROLLBACK", moves(1, "deposit", "9", Some(9))),
        ),
    ]
}

fn settings() -> Vec<Operation> {
    let set = |name, columns: &str| {
        Operation::new(name, format!("UPDATE users SET {columns}, updated_at = now() WHERE id = 1"))
            .tells("user_update", "live:1")
    };
    vec![
        set("change the leverage", "leverage = 400"),
        set("change the group", "\"group\" = 'VIP'"),
        set("switch the account off", "status = 'inactive', is_active = false"),
        set("switch the account on", "status = 'active', is_active = true"),
        set("change the e-mail", "email = 'renamed@example.com'"),
        set("remove the e-mail", "email = NULL"),
        set("change margin and net profit", "margin = 33.3, net_profit = -4.75"),
        set("copy trading on", "copytrading_status = 'active', copytrader_id = 2, copy_trading_wallet = 10"),
        set("change the password only", "password_hash = 'another'"),
    ]
}

fn approvals() -> Vec<Operation> {
    let complete = |id: &str| {
        format!("UPDATE user_transactions SET status = 'completed' WHERE transaction_id = '{id}';")
    };
    let balance = "UPDATE users SET wallet_balance = wallet_balance + 25 WHERE id = 1;".to_owned();
    let request = "INSERT INTO money_requests (user_id, amount) VALUES (1, 40)";
    let approve = "UPDATE money_requests SET status = 'approved' WHERE user_id = 1;".to_owned();
    vec![
        Operation::new("a deposit is pending", row("PEND-1", 1, "deposit", "25", "pending")),
        Operation::new("the pending deposit is completed", transaction(&[balance, complete("PEND-1")]))
            .books("live:1", "deposit"),
        Operation::new("a withdrawal is pending", row("PEND-2", 1, "withdraw", "-25", "pending")),
        Operation::new(
            "the pending withdrawal is rejected",
            "UPDATE user_transactions SET status = 'cancelled' WHERE transaction_id = 'PEND-2'",
        ),
        Operation::new("a failed deposit", row("FAIL-1", 1, "deposit", "25", "failed")),
        Operation::new("a money request", request),
        Operation::new(
            "the money request is approved",
            transaction(&[approve, moves(1, "deposit", "40", Some(9))]),
        )
        .books("live:1", "deposit"),
        Operation {
            events: vec![("user_update", "live:2".into(), Some("adjustment"))],
            ..Operation::new(
                "a booking that moves no balance",
                row("NOTE-1", 2, "adjustment", "0", "completed"),
            )
        },
        Operation::new(
            "notes of a completed booking are edited",
            "UPDATE user_transactions SET notes = 'checked' WHERE transaction_id = 'NOTE-1'",
        ),
    ]
}

fn en_masse() -> Vec<Operation> {
    let (first, last) = (IMPORTED.start(), IMPORTED.end());
    let import = format!(
        "INSERT INTO users (id, user_type, wallet_balance, leverage) SELECT n, 'live', n, 100 \
         FROM generate_series({first}, {last}) n"
    );
    let imported = |event: &'static str| IMPORTED.map(move |id| (event, format!("live:{id}"), None));
    let everybody = |event: &'static str| {
        let first = ["live:1", "live:2", "demo:3"].map(|user| (event, user.to_owned(), None));
        first.into_iter().chain(imported(event)).collect::<Vec<_>>()
    };
    vec![
        Operation { events: imported("user_created").collect(), ..Operation::new("import of users", import) },
        Operation {
            events: everybody("balance_change"),
            ..Operation::new(
                "interest for everybody",
                "UPDATE users SET wallet_balance = wallet_balance * 1.01 + 1",
            )
        },
        Operation {
            events: everybody("user_update"),
            ..Operation::new("new leverage for everybody", "UPDATE users SET leverage = 50")
        },
        Operation::new("maintenance: a column, a vacuum", "ALTER TABLE users ADD COLUMN remark text"),
    ]
}

fn endings() -> Vec<Operation> {
    let moved = |event: &'static str, from: &'static str, to: &'static str, sql: &str| Operation {
        events: vec![("user_deleted", from.to_owned(), None), ("user_created", to.to_owned(), None)],
        users: vec![from, to],
        ..Operation::new(event, sql)
    };
    vec![
        moved("change of the type", "demo:3", "live:3", "UPDATE users SET user_type = 'live' WHERE id = 3"),
        moved("change of the id", "live:3", "live:33", "UPDATE users SET id = 33 WHERE id = 3"),
        Operation::new("delete a user", "DELETE FROM users WHERE id = 2").tells("user_deleted", "live:2"),
        Operation::new(
            "the same user again",
            "INSERT INTO users (id, user_type, wallet_balance) VALUES (2, 'live', 5)",
        )
        .tells("user_created", "live:2"),
        Operation::new("the bookings are truncated", "TRUNCATE user_transactions"),
        Operation {
            events: IMPORTED.map(|id| ("user_deleted", format!("live:{id}"), None)).collect(),
            ..Operation::new("delete the imported users", "DELETE FROM users WHERE id > 100")
        },
        Operation {
            events: ["live:1", "live:2", "live:33"]
                .map(|user| ("user_deleted", user.to_owned(), None))
                .into(),
            ..Operation::new("all users are truncated", "TRUNCATE users CASCADE")
        },
    ]
}
