//! The model: the specified behaviour of the service, in its simplest form.

use std::collections::{BTreeMap, HashSet};

use tonic::Code;

use super::{Answer, Expected, Op, Refusal};

#[derive(Debug, Clone, PartialEq)]
pub struct Flag {
    pub on: bool,
    pub archived: bool,
    pub name: String,
    pub revision: i64,
    pub last_flip: Option<LastFlip>,
}

/// The revision of a flip, and its reason.
#[derive(Debug, Clone, PartialEq)]
pub struct LastFlip {
    pub revision: i64,
    pub reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct User {
    pub active: bool,
    pub permitted: bool,
    pub revision: i64,
}

/// An entry of the log. `entity` is the number of the flag, user or token.
#[derive(Debug, Clone, PartialEq)]
pub struct LogEntry {
    pub revision: i64,
    pub action: String,
    pub entity: usize,
}

pub struct Model {
    pub flags: BTreeMap<usize, Flag>,
    pub users: BTreeMap<usize, User>,
    /// Whether each token is revoked.
    pub tokens: Vec<bool>,
    pub entries: Vec<LogEntry>,
    pub head: i64,
    pub floor: i64,
    /// The reason of the present change.
    reason: Option<String>,
}

/// The reason that a change gives at this head: every other one has none.
pub fn reason(head: i64) -> Option<String> {
    (head % 2 == 0).then(|| format!("reason {head}"))
}

fn refuse<T>(code: Code, reason: &str) -> Result<T, Refusal> {
    Err((code, reason.to_owned()))
}

impl Model {
    pub fn new(head: i64, floor: i64) -> Self {
        let (flags, users, tokens, entries) = (BTreeMap::new(), BTreeMap::new(), Vec::new(), Vec::new());
        Self { flags, users, tokens, entries, head, floor, reason: None }
    }

    pub fn entries_kept(&self) -> Vec<LogEntry> {
        self.entries.iter().filter(|entry| entry.revision > self.floor).cloned().collect()
    }

    fn log(&mut self, action: &'static str, entity: usize) -> i64 {
        self.head += 1;
        self.entries.push(LogEntry { revision: self.head, action: action.to_owned(), entity });
        self.head
    }

    fn flag(&self, flag: usize, expected: Expected) -> Result<Flag, Refusal> {
        match self.flags.get(&flag) {
            None => refuse(Code::NotFound, "FLAG_NOT_FOUND"),
            Some(_) if expected == Expected::Other => refuse(Code::Aborted, "REVISION_MISMATCH"),
            Some(flag) => Ok(flag.clone()),
        }
    }

    fn in_use(&self, flag: usize, expected: Expected) -> Result<Flag, Refusal> {
        let flag = self.flag(flag, expected)?;
        if flag.archived { refuse(Code::FailedPrecondition, "FLAG_ARCHIVED") } else { Ok(flag) }
    }

    fn put(&mut self, number: usize, flag: Flag, action: &'static str) -> Answer {
        if self.flags.get(&number) == Some(&flag) {
            return Ok(0);
        }
        let revision = self.log(action, number);
        let is_flip = action.starts_with("toggle");
        let last_flip = if is_flip { Some(LastFlip { revision, reason: self.reason.clone() }) } else { flag.last_flip };
        self.flags.insert(number, Flag { revision, last_flip, ..flag });
        Ok(1)
    }

    fn set(&mut self, number: usize, on: bool, expected: Expected) -> Answer {
        let flag = self.in_use(number, expected)?;
        self.put(number, Flag { on, ..flag }, if on { "toggle_enabled" } else { "toggle_disabled" })
    }

    fn put_user(&mut self, number: usize, user: User, action: &'static str) -> Answer {
        if self.users.get(&number) == Some(&user) {
            return Ok(0);
        }
        let revision = self.log(action, number);
        self.users.insert(number, User { revision, ..user });
        Ok(1)
    }

    fn user(&self, user: usize) -> Result<User, Refusal> {
        self.users.get(&user).cloned().map_or_else(|| refuse(Code::NotFound, "USER_NOT_FOUND"), Ok)
    }

    pub fn apply(&mut self, op: &Op) -> Answer {
        self.reason = reason(self.head);
        match *op {
            Op::CreateFlag { flag, on } => self.batch_create(&[(flag, on)]),
            Op::Toggle { flag, expected } => {
                let on = !self.in_use(flag, expected)?.on;
                self.set(flag, on, expected)
            }
            Op::Set { flag, on, expected } => self.set(flag, on, expected),
            Op::Batch { ref items } => self.batch(items),
            Op::BatchCreate { ref items } => self.batch_create(items),
            Op::Rename { flag, name, expected } => {
                let before = self.flag(flag, expected)?;
                self.put(flag, Flag { name: format!("name {name}"), ..before }, "flag_updated")
            }
            Op::Archive { flag, archived, expected } => {
                let before = self.flag(flag, expected)?;
                let action = if archived { "flag_archived" } else { "flag_unarchived" };
                self.put(flag, Flag { archived, ..before }, action)
            }
            Op::Revert { entry } => match self.entries.get(entry).cloned() {
                Some(entry) if entry.revision > self.floor => match &*entry.action {
                    "toggle_enabled" => self.set(entry.entity, false, Expected::Unset),
                    "toggle_disabled" => self.set(entry.entity, true, Expected::Unset),
                    _ => refuse(Code::FailedPrecondition, "NOT_REVERTIBLE"),
                },
                _ => refuse(Code::NotFound, "AUDIT_LOG_NOT_FOUND"),
            },
            Op::CreateUser { user } if self.users.contains_key(&user) => refuse(Code::AlreadyExists, "EMAIL_TAKEN"),
            Op::CreateUser { user } => {
                self.put_user(user, User { active: true, permitted: false, revision: 0 }, "user_created")
            }
            Op::Grant { user, permitted, reactivate } => {
                let before = self.user(user)?;
                if !before.active && !reactivate {
                    return refuse(Code::FailedPrecondition, "USER_DEACTIVATED");
                }
                if reactivate && before.permitted && !permitted {
                    return refuse(Code::InvalidArgument, "INVALID_FIELD");
                }
                self.put_user(user, User { active: true, permitted, ..before }, "user_updated")
            }
            Op::Deactivate { user } => {
                let before = self.user(user)?;
                self.put_user(user, User { active: false, ..before }, "user_deactivated")
            }
            Op::CreateToken { user } if !self.user(user)?.active => {
                refuse(Code::FailedPrecondition, "USER_DEACTIVATED")
            }
            Op::CreateToken { .. } => {
                self.log("token_created", self.tokens.len());
                self.tokens.push(false);
                Ok(1)
            }
            Op::Revoke { token } => match self.tokens.get_mut(token) {
                None => refuse(Code::NotFound, "TOKEN_NOT_FOUND"),
                Some(true) => Ok(0),
                Some(revoked) => {
                    *revoked = true;
                    self.log("token_revoked", token);
                    Ok(1)
                }
            },
            Op::Trim { keep } if keep < 0 => refuse(Code::OutOfRange, "CURSOR_IN_FUTURE"),
            Op::Trim { keep } if self.head - keep <= self.floor => refuse(Code::OutOfRange, "CURSOR_TOO_OLD"),
            Op::Trim { keep } => {
                self.floor = self.head - keep;
                self.log("log_trimmed", 0);
                Ok(1)
            }
        }
    }

    fn batch_create(&mut self, items: &[(usize, bool)]) -> Answer {
        check_distinct(items)?;
        if items.iter().any(|(flag, _)| self.flags.contains_key(flag)) {
            return refuse(Code::AlreadyExists, "KEY_TAKEN");
        }
        let new = |on| Flag { on, archived: false, name: "new".to_owned(), revision: 0, last_flip: None };
        items.iter().map(|(flag, on)| self.put(*flag, new(*on), "flag_created")).sum()
    }

    fn batch(&mut self, items: &[(usize, bool)]) -> Answer {
        check_distinct(items)?;
        for (flag, _) in items {
            self.in_use(*flag, Expected::Unset)?;
        }
        items.iter().map(|(flag, on)| self.set(*flag, *on, Expected::Unset)).sum()
    }
}

/// No two items of a batch may name the same flag.
fn check_distinct(items: &[(usize, bool)]) -> Result<(), Refusal> {
    let mut named = HashSet::new();
    let is_distinct = items.iter().all(|(flag, _)| named.insert(flag));
    if is_distinct { Ok(()) } else { refuse(Code::InvalidArgument, "INVALID_FIELD") }
}
