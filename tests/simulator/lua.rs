//! Redis' Lua: a real Lua 5.1 that runs the scripts as they are, over a keyspace of the model.

use std::cell::RefCell;
use std::collections::HashMap;

use bytes::Bytes;
use lockstep::sink::reply::Reply;
use mlua::{Function, Lua, Table, Value, Variadic};

use crate::model::keyspace::Keyspace;

/// What scripts see beside Lua's own: errors of `redis.call` are tables that `pcall` can catch.
const PRELUDE: &str = "
local raw = raw_call
redis = {
    pcall = raw,
    call = function(...)
        local reply = raw(...)
        if type(reply) == 'table' and reply.err then error(reply, 0) end
        return reply
    end,
}
-- What a script does not catch is its answer.
run = function(script)
    local ok, reply = pcall(script)
    if ok or type(reply) == 'table' and reply.err then return reply end
    error(reply, 0)
end
cmsgpack = { unpack = raw_unpack }
bit = { band = raw_band }
";

thread_local! {
    static INTERPRETER: Interpreter = Interpreter::new().unwrap();
    /// The keyspace of the script that runs.
    static KEYSPACE: RefCell<Option<Keyspace>> = const { RefCell::new(None) };
}

struct Interpreter {
    lua: Lua,
    scripts: RefCell<HashMap<String, Function>>,
}

/// Runs a script; the error is Redis' error line.
pub fn run(text: &str, keys: &[Bytes], args: &[Bytes], space: &mut Keyspace) -> Result<Reply, String> {
    INTERPRETER.with(|interpreter| {
        KEYSPACE.set(Some(std::mem::take(space)));
        let reply = interpreter.run(text, keys, args);
        *space = KEYSPACE.take().unwrap_or_default();
        match reply {
            Ok(value) => to_reply(value),
            Err(error) => panic!("the script is wrong: {error}"),
        }
    })
}

impl Interpreter {
    fn new() -> mlua::Result<Interpreter> {
        let lua = Lua::new();
        let globals = lua.globals();
        globals.set("raw_call", lua.create_function(|lua, args: Variadic<Value>| call(lua, &args))?)?;
        let unpack = |lua: &Lua, text: mlua::String| unpack(lua, &mut &*text.as_bytes());
        globals.set("raw_unpack", lua.create_function(unpack)?)?;
        let band = |_: &Lua, (a, b): (f64, f64)| Ok((whole(a) & whole(b)) as i32);
        globals.set("raw_band", lua.create_function(band)?)?;
        lua.load(PRELUDE).exec()?;
        Ok(Interpreter { lua, scripts: RefCell::default() })
    }

    fn run(&self, text: &str, keys: &[Bytes], args: &[Bytes]) -> mlua::Result<Value> {
        let known = self.scripts.borrow().get(text).cloned();
        let script = match known {
            Some(script) => script,
            None => {
                // Redis takes the first line, as it has no meaning in Lua.
                let body = match text.strip_prefix("#!") {
                    Some(rest) => rest.split_once('\n').map_or("", |(_, body)| body),
                    None => text,
                };
                let script = self.lua.load(body).set_name("script").into_function()?;
                self.scripts.borrow_mut().insert(text.to_owned(), script.clone());
                script
            }
        };
        let list = |items: &[Bytes]| {
            let table = self.lua.create_table_with_capacity(items.len(), 0)?;
            for item in items {
                table.raw_push(self.lua.create_string(item)?)?;
            }
            Ok::<Table, mlua::Error>(table)
        };
        let globals = self.lua.globals();
        globals.raw_set("KEYS", list(keys)?)?;
        globals.raw_set("ARGV", list(args)?)?;
        globals.get::<Function>("run")?.call(script)
    }
}

/// As bit.band takes its numbers: modulo 2^32.
fn whole(number: f64) -> u32 {
    number as i64 as u32
}

fn call(lua: &Lua, args: &[Value]) -> mlua::Result<Value> {
    let mut words = Vec::with_capacity(args.len());
    for arg in args {
        match arg {
            Value::String(text) => words.push(Bytes::copy_from_slice(&text.as_bytes())),
            Value::Integer(number) => words.push(number.to_string().into()),
            Value::Number(number) => words.push(number.to_string().into()),
            other => {
                return Err(mlua::Error::runtime(format!("a command's argument is a {}", other.type_name())));
            }
        }
    }
    let reply = KEYSPACE.with_borrow_mut(|space| {
        let space = space.as_mut().expect("a script runs");
        let (name, args) = words.split_first().expect("a command has a name");
        space.execute(std::str::from_utf8(name).unwrap(), args)
    });
    match reply {
        Ok(reply) => to_lua(lua, &reply),
        Err(line) => {
            let table = lua.create_table()?;
            table.raw_set("err", line)?;
            Ok(Value::Table(table))
        }
    }
}

fn to_lua(lua: &Lua, reply: &Reply) -> mlua::Result<Value> {
    Ok(match reply {
        Reply::Nil => Value::Boolean(false),
        Reply::Int(number) => Value::Number(*number as f64),
        Reply::Text(text) if text == "OK" => {
            let table = lua.create_table()?;
            table.raw_set("ok", "OK")?;
            Value::Table(table)
        }
        Reply::Text(text) => Value::String(lua.create_string(text)?),
        Reply::List(items) => {
            let table = lua.create_table_with_capacity(items.len(), 0)?;
            for (at, item) in items.iter().enumerate() {
                table.raw_set(at + 1, to_lua(lua, item)?)?;
            }
            Value::Table(table)
        }
    })
}

fn to_reply(value: Value) -> Result<Reply, String> {
    Ok(match value {
        Value::String(text) => Reply::Text(Bytes::copy_from_slice(&text.as_bytes())),
        Value::Integer(number) => Reply::Int(number),
        Value::Number(number) => Reply::Int(number as i64),
        Value::Boolean(true) => Reply::Int(1),
        Value::Table(table) => {
            if let Ok(Some(line)) = table.raw_get::<Option<String>>("err") {
                return Err(line);
            }
            if let Ok(Some(word)) = table.raw_get::<Option<String>>("ok") {
                return Ok(Reply::Text(word.into()));
            }
            let items = table.sequence_values::<Value>().map(|item| to_reply(item.unwrap()));
            Reply::List(items.collect::<Result<_, _>>()?)
        }
        _ => Reply::Nil,
    })
}

/// MessagePack as cmsgpack reads it: text, whole numbers, lists.
fn unpack(lua: &Lua, bytes: &mut &[u8]) -> mlua::Result<Value> {
    let head = take(bytes, 1)[0];
    Ok(match head {
        0x00..=0x7f => Value::Number(f64::from(head)),
        0x90..=0x9f => list(lua, usize::from(head & 0x0f), bytes)?,
        0xa0..=0xbf => text(lua, usize::from(head & 0x1f), bytes)?,
        // How many bytes the number or the length takes is a power of two, which the kind counts up.
        0xcc..=0xcf => Value::Number(number(bytes, 1 << (head - 0xcc)) as f64),
        0xd9..=0xdb => {
            let length = number(bytes, 1 << (head - 0xd9));
            text(lua, length as usize, bytes)?
        }
        0xdc..=0xdd => {
            let length = number(bytes, 2 << (head - 0xdc));
            list(lua, length as usize, bytes)?
        }
        other => panic!("MessagePack of kind {other:#x}"),
    })
}

fn take<'b>(bytes: &mut &'b [u8], count: usize) -> &'b [u8] {
    let (head, rest) = bytes.split_at(count);
    *bytes = rest;
    head
}

fn number(bytes: &mut &[u8], width: usize) -> u64 {
    take(bytes, width).iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn text(lua: &Lua, length: usize, bytes: &mut &[u8]) -> mlua::Result<Value> {
    Ok(Value::String(lua.create_string(take(bytes, length))?))
}

fn list(lua: &Lua, length: usize, bytes: &mut &[u8]) -> mlua::Result<Value> {
    let table = lua.create_table_with_capacity(length, 0)?;
    for at in 1..=length {
        table.raw_set(at, unpack(lua, bytes)?)?;
    }
    Ok(Value::Table(table))
}
