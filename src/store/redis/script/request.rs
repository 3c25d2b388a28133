//! Encodes the keys and arguments of the script: a batch is MessagePack, which Redis' Lua unpacks in C.
//!
//! Values that operations share are sent once (dictionary encoding): the classes of Reserves (pool, workload,
//! project, model) and the usage rows. An operation has their numbers.

use std::collections::{HashMap, HashSet};

use super::keys::{self, OrgKeys};
use crate::{
    domain::{
        Eligibility, ModelName, Overflow, PoolName, ProjectId, RequestFields, RequestId, Verdict,
    },
    store::{
        Batch, Operation, Recording,
        codes::{verdict_code, workload_code},
        redis::recovery::snapshots::PoolSnapshot,
    },
};

/// Codes that begin an operation, named as in call.lua. A recorded Reserve without an id has none.
const RESERVE_WITH_ID: i64 = -1;
const DRY_RUN_WITH_ID: i64 = -2;
const DRY_RUN: i64 = -3;
const SETTLE: i64 = -4;
const RELEASE: i64 = -5;
const SET_CLASS: i64 = -6;

/// One call of the script, with batches of one day.
#[derive(Default)]
pub(crate) struct ScriptCall {
    pub(crate) keys: Vec<String>,
    /// One for each batch.
    pub(crate) arguments: Vec<Vec<u8>>,
    /// For each batch: the pools that it names, in order, and the seq of each one's snapshot.
    pub(crate) pools: Vec<Vec<(PoolName, u64)>>,
}

/// How a batch is sent.
#[derive(Clone, Default)]
pub(crate) struct BatchOptions {
    /// Pools of reservations that the terms don't have.
    pub(crate) extra_pools: Vec<PoolName>,
    /// Redis lost writes: the snapshots are sent whole.
    pub(crate) sends_snapshots: bool,
    /// Every pool with a snapshot is read.
    pub(crate) audits: bool,
}

impl ScriptCall {
    /// Adds a batch. Its argument has the layout in call.lua.
    pub(crate) fn add(
        &mut self,
        batch: &Batch,
        options: &BatchOptions,
        snapshots: &[PoolSnapshot],
        key_prefix: &str,
    ) {
        let terms = &*batch.terms;
        let mut dictionary = Dictionary::default();
        let mut operations = MsgPackWriter::default();
        for operation in &batch.operations {
            operations.operation(&mut dictionary, operation);
        }
        if options.audits {
            for snapshot in snapshots {
                dictionary.pool(&snapshot.pool);
            }
        }
        let ids: Vec<&RequestId> = batch
            .operations
            .iter()
            .filter_map(Operation::request_id)
            .collect();
        if !ids.is_empty() {
            // A reservation may be in any of them.
            let known = terms.allowances.iter().map(|(pool, _)| pool);
            for pool in known.chain(&options.extra_pools) {
                dictionary.pool(pool);
            }
        }
        let lookups = match !ids.is_empty() || options.sends_snapshots {
            true => dictionary.lookups(),
            false => Vec::new(),
        };
        let Dictionary {
            pools,
            rows,
            classes,
            ..
        } = dictionary;

        let mut argument = MsgPackWriter::default();
        argument.flag(terms.overflow == Overflow::CloseUntilReset);
        argument.number(self.keys.len() as u64 + 1);
        argument.flag(options.sends_snapshots);
        argument.flag(options.audits);
        argument.flag(ids.iter().collect::<HashSet<_>>().len() < ids.len());
        for items in [
            pools.len(),
            rows.len(),
            classes.len(),
            ids.len(),
            lookups.len(),
        ] {
            argument.number(items as u64);
        }
        let org_keys = OrgKeys::new(key_prefix, &batch.org, batch.day);
        self.keys.extend([org_keys.usage(), org_keys.requests()]);
        let mut seqs = Vec::with_capacity(pools.len());
        for pool in pools {
            let name = keys::encode(pool.as_str());
            let snapshot = snapshots.iter().find(|snapshot| snapshot.pool == *pool);
            let seq = snapshot.map_or(0, |snapshot| snapshot.seq);
            argument.text(&name);
            argument.number(terms.of_pool(pool).allowance.get());
            match snapshot {
                Some(snapshot) if options.sends_snapshots => argument.bytes(&snapshot.record),
                _ => argument.number(seq),
            }
            self.keys.push(org_keys.pool(&name));
            seqs.push((pool.clone(), seq));
        }
        if !ids.is_empty() {
            let yesterday = OrgKeys::new(key_prefix, &batch.org, batch.day.yesterday());
            self.keys.extend([yesterday.usage(), yesterday.requests()]);
        }
        for row in &rows {
            argument.text(row);
        }
        for class in &classes {
            match class.target {
                Target::Pool(number) => argument.number(number as u64),
                Target::Billed(code) => argument.text(code.encode_utf8(&mut [0; 4])),
            }
            argument.number(class.row as u64);
            argument.flag(class.is_listed);
        }
        for id in ids {
            argument.text(id.as_str());
        }
        for lookup in &lookups {
            argument.text(lookup);
        }
        argument.0.extend(operations.0);
        self.arguments.push(argument.0);
        self.pools.push(seqs);
    }
}

/// The pools, rows and classes of a batch, each once. Numbers begin at 1, as in Lua.
#[derive(Default)]
struct Dictionary<'b> {
    pools: Vec<&'b PoolName>,
    rows: Vec<String>,
    classes: Vec<RequestClass>,
    row_numbers: HashMap<(&'b ProjectId, &'b ModelName), usize>,
    class_numbers: HashMap<RequestClass, usize>,
    /// The last Reserve and its class: a gateway's requests come in runs of one class.
    last: Option<(&'b RequestFields, &'b Eligibility, usize)>,
}

/// What Reserves have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct RequestClass {
    target: Target,
    workload: char,
    row: usize,
    is_listed: bool,
}

/// The number of a pool, or the code of the reason for being billed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Target {
    Pool(usize),
    Billed(char),
}

impl<'b> Dictionary<'b> {
    /// The number of a pool. There are few, so a linear search is enough.
    fn pool(&mut self, pool: &'b PoolName) -> usize {
        let known = self.pools.iter().position(|known| *known == pool);
        1 + known.unwrap_or_else(|| {
            self.pools.push(pool);
            self.pools.len() - 1
        })
    }

    /// The class of the last Reserve; before the first one, class 1, as in the script.
    fn last_class(&self) -> usize {
        self.last.map_or(1, |(_, _, class)| class)
    }

    fn class(
        &mut self,
        fields: &'b RequestFields,
        eligibility: &'b Eligibility,
        is_listed: bool,
    ) -> usize {
        let (project, model) = (&fields.project, &fields.model);
        if let Some((last, last_eligibility, class)) = self.last
            && (&last.project, &last.model) == (project, model)
            && (last.workload, last_eligibility) == (fields.workload, eligibility)
        {
            return class;
        }
        let target = match eligibility {
            Eligibility::Ineligible(reason) => {
                Target::Billed(verdict_code(Verdict::Billed(*reason)))
            }
            Eligibility::Eligible(pool) => Target::Pool(self.pool(pool)),
        };
        let row = self.row_numbers.entry((project, model));
        let row = *row.or_insert_with(|| {
            self.rows.push(keys::row_field(project, model));
            self.rows.len()
        });
        let class = RequestClass {
            target,
            workload: workload_code(fields.workload),
            row,
            is_listed,
        };
        let number = *self.class_numbers.entry(class).or_insert_with(|| {
            self.classes.push(class);
            self.classes.len()
        });
        self.last = Some((fields, eligibility, number));
        number
    }

    /// The fields that are read with the ids. No id equals one, since they begin with a control character.
    fn lookups(&self) -> Vec<String> {
        let classes = self.classes.iter().map(|class| {
            let pool = match class.target {
                Target::Pool(number) => keys::encode(self.pools[number - 1].as_str()),
                Target::Billed(_) => "".into(),
            };
            let (workload, row) = (class.workload, &self.rows[class.row - 1]);
            format!("\u{1}{pool}:{workload}:{row}")
        });
        let held = self.pools.iter().map(|pool| keys::held_field(pool));
        ["\u{1}".to_owned()]
            .into_iter()
            .chain(classes)
            .chain(held)
            .collect()
    }
}

/// Writes consecutive MessagePack values.
#[derive(Default)]
struct MsgPackWriter(Vec<u8>);

const VEC: &str = "a Vec takes every byte";

impl MsgPackWriter {
    fn operation<'b>(&mut self, dictionary: &mut Dictionary<'b>, operation: &'b Operation) {
        match operation {
            Operation::Reserve {
                request_id,
                fields,
                eligibility,
                is_listed,
                recording,
            } => {
                let before = dictionary.last_class();
                let class = dictionary.class(fields, eligibility, *is_listed);
                if class != before {
                    self.code(SET_CLASS);
                    self.number(class as u64);
                }
                match (request_id, recording) {
                    (None, Recording::Record) => {}
                    (None, Recording::DryRun | Recording::Stranger) => self.code(DRY_RUN),
                    (Some(_), Recording::Record) => self.code(RESERVE_WITH_ID),
                    (Some(_), Recording::DryRun | Recording::Stranger) => {
                        self.code(DRY_RUN_WITH_ID)
                    }
                }
                self.number(fields.tokens.get());
            }
            Operation::Settle { tokens, .. } => {
                self.code(SETTLE);
                self.number(tokens.get());
            }
            Operation::Release { .. } => self.code(RELEASE),
        }
    }

    fn number(&mut self, number: u64) {
        rmp::encode::write_uint(&mut self.0, number).expect(VEC);
    }

    fn code(&mut self, code: i64) {
        rmp::encode::write_sint(&mut self.0, code).expect(VEC);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// Packed as a string, which is bytes in Lua.
    fn bytes(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).expect("names and records are short");
        rmp::encode::write_str_len(&mut self.0, length).expect(VEC);
        self.0.extend(bytes);
    }

    fn flag(&mut self, flag: bool) {
        rmp::encode::write_bool(&mut self.0, flag).expect(VEC);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_script() {
        let codes = format!(
            "local RESERVE, RESERVE_WITH_ID, DRY_RUN_WITH_ID, DRY_RUN, SETTLE, RELEASE, SET_CLASS = \
             0, {RESERVE_WITH_ID}, {DRY_RUN_WITH_ID}, {DRY_RUN}, {SETTLE}, {RELEASE}, {SET_CLASS}\n"
        );
        assert!(include_str!("call.lua").contains(&codes), "{codes}");
    }
}
