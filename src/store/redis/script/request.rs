//! Encodes the keys and arguments of the scripts: a batch is MessagePack, which Redis' Lua unpacks in C.
//!
//! Values that operations share are sent once (dictionary encoding): the classes of Reserves (pool, workload,
//! project, model) and the usage rows. An operation has their numbers.

use std::collections::HashSet;

use indexmap::{IndexMap, IndexSet};

use super::keys::{self, CounterId, OrgKeys};
use crate::{
    domain::{
        Eligibility, ExternalSource, ModelName, Overflow, PoolName, PoolTerms, ProjectId,
        RequestFields, RequestId, ShareId, Terms, Threshold, Thresholds, Tokens, UtcDay, Verdict,
    },
    store::{
        Batch, Operation, UsageLimits,
        codes::{verdict_code, workload_code},
        redis::recovery::snapshots::{PoolSnapshot, SnapshotDays},
    },
};

/// Codes that begin an operation, named as in call.lua. A recorded Reserve without an id has none.
const RESERVE_WITH_ID: i64 = -1;
const DRY_RUN_WITH_ID: i64 = -2;
const DRY_RUN: i64 = -3;
const SETTLE: i64 = -4;
const SETTLE_OUTSIDE: i64 = -5;
const RELEASE: i64 = -6;
const SET_CLASS: i64 = -7;
const SET_EXTERNAL: i64 = -8;
const CONFIRM: i64 = -9;

/// More tokens than any pool counts.
const NEVER_COUNTED: u64 = Tokens::MAX.get() + 1;

/// The first argument of a call.
pub(crate) fn head(day: UtcDay, limits: UsageLimits, replica: u64, call_number: u64) -> Vec<u8> {
    let mut head = MsgPackWriter::default();
    head.number(day.start().timestamp().unsigned_abs());
    for number in [
        limits.retention_seconds(),
        replica,
        call_number,
        limits.max_rows,
    ] {
        head.number(number);
    }
    head.0
}

/// Which script a call runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScriptKind {
    /// The one that can decide any batch.
    Full,
    /// The one for Reserves.
    Reserve,
}

/// One call of a script, with batches of one day.
pub(crate) struct ScriptCall {
    pub(crate) kind: ScriptKind,
    pub(crate) keys: Vec<String>,
    /// One for each batch.
    pub(crate) arguments: Vec<Vec<u8>>,
    /// For each batch: the pools and shares that it names, in order.
    pub(crate) pools: Vec<Vec<NamedPool>>,
}

/// A pool or a share that a batch names.
pub(crate) struct NamedPool {
    pub(crate) day: UtcDay,
    pub(crate) counter: CounterId,
    /// The seq of its snapshot; 0 if it has none.
    pub(crate) seq: u64,
}

/// How a batch is sent.
#[derive(Clone, Default)]
pub(crate) struct BatchOptions {
    /// Pools and shares of reservations that the batch does not name otherwise.
    pub(crate) extra: Vec<CounterId>,
    /// Whether it names tomorrow's pools, for reservations that are carried.
    pub(crate) names_tomorrow: bool,
    /// The script for Reserves declined it or failed, or the reply was lost.
    pub(crate) needs_full_script: bool,
    /// Redis lost writes: the snapshots are sent whole.
    pub(crate) sends_snapshots: bool,
}

impl ScriptCall {
    pub(crate) fn new(kind: ScriptKind) -> Self {
        Self {
            kind,
            keys: Vec::new(),
            arguments: Vec::new(),
            pools: Vec::new(),
        }
    }

    /// Adds a batch. Its argument has the layout in call.lua. A batch without operations reads every pool and share with
    /// a snapshot.
    pub(crate) fn add(
        &mut self,
        batch: &Batch,
        options: &BatchOptions,
        snapshots: &SnapshotDays,
        key_prefix: &str,
    ) {
        let days = [batch.day, batch.day.plus_days(1)];
        let snapshots = days.map(|day| snapshots.pools(&batch.org, day));
        let (mut dictionary, operations) = Dictionary::of(batch);
        let ids = batch.operations.iter().filter_map(Operation::request_id);
        let ids: Vec<&RequestId> = ids.collect();
        // A known reservation may be in any of them. The script for Reserves declines it.
        if self.kind == ScriptKind::Full && !ids.is_empty() {
            let pools = batch.terms.pools.iter().map(|(pool, _)| pool);
            dictionary.pools.extend(pools);
        }
        dictionary.add_named(batch, options, snapshots);
        let is_audit = batch.operations.is_empty();
        let names_tomorrow = options.names_tomorrow || is_audit && !snapshots[1].is_empty();
        let has_lookups = !ids.is_empty() || options.sends_snapshots;

        let mut argument = MsgPackWriter::default();
        // The script for Reserves gets no batch with an id twice.
        let has_duplicates =
            self.kind == ScriptKind::Full && ids.iter().collect::<HashSet<_>>().len() < ids.len();
        argument.header(batch, has_duplicates, self.keys.len(), options);
        let (n_pools, n_classes) = (dictionary.pools.len(), dictionary.classes.len());
        let n_tomorrow = usize::from(names_tomorrow) * n_pools;
        let n_all = n_pools + n_tomorrow;
        let n_lookups = usize::from(has_lookups) * (1 + n_classes + n_pools);
        let (n_rows, n_shares) = (dictionary.rows.len(), dictionary.shares.len());
        argument.numbers([n_all, n_rows, n_classes, ids.len()]);
        argument.numbers([n_lookups, n_tomorrow, n_shares]);
        let org_keys = OrgKeys::new(key_prefix, &batch.org, batch.day);
        self.keys.extend([org_keys.usage(), org_keys.requests()]);
        let mut named = Vec::with_capacity(n_all + n_shares);
        let days = days.into_iter().zip(snapshots);
        for (day, snapshots) in days.take(1 + usize::from(names_tomorrow)) {
            let org_keys = OrgKeys::new(key_prefix, &batch.org, day);
            for pool in &dictionary.pools {
                let counter = CounterId::Pool((*pool).clone());
                self.keys.push(org_keys.pool(&counter.encoded()));
                let terms = pool_terms(batch, day, pool);
                named.push(argument.counter(day, counter, terms, snapshots, options));
            }
        }
        for share in &dictionary.shares {
            let counter = CounterId::Share((*share).clone());
            self.keys.push(org_keys.share(&counter.encoded()));
            let terms = share_terms(batch, share);
            named.push(argument.counter(batch.day, counter, terms, snapshots[0], options));
        }
        if !ids.is_empty() {
            let yesterday = OrgKeys::new(key_prefix, &batch.org, batch.day.yesterday());
            self.keys.extend([yesterday.usage(), yesterday.requests()]);
        }
        argument.rows_and_classes(&dictionary, n_all);
        for id in ids {
            argument.text(id.as_str());
        }
        if has_lookups {
            argument.lookups(&dictionary);
        }
        argument.0.extend(operations.0);
        self.arguments.push(argument.0);
        self.pools.push(named);
    }
}

/// The terms of a pool on a day. Only today's reach thresholds.
fn pool_terms(batch: &Batch, day: UtcDay, pool: &PoolName) -> PoolTerms {
    let mut terms = batch.terms.of_pool(pool);
    if day != batch.day {
        terms.thresholds = Thresholds::default();
    }
    terms
}

/// A share as the terms of a pool.
fn share_terms(batch: &Batch, share: &ShareId) -> PoolTerms {
    let tokens = batch.terms.share(&share.pool, &share.project);
    PoolTerms {
        allowance: tokens.map_or(Tokens::ZERO, |(_, tokens)| tokens),
        margin: Tokens::ZERO,
        overflow: batch.terms.overflow,
        thresholds: Thresholds::default(),
    }
}

/// The maximum number of shares that a batch names because one of its reservations may be in them. Of others the script
/// asks for those that it needs.
const MAX_POSSIBLE_SHARES: usize = 64;

/// Whether a batch has Reserves and nothing else, and no id twice.
pub(crate) fn is_for_reserve_script(batch: &Batch) -> bool {
    let mut ids = HashSet::new();
    let mut operations = batch.operations.iter();
    !batch.operations.is_empty()
        && operations.all(|operation| match operation {
            Operation::Reserve { request_id, .. } => {
                request_id.as_ref().is_none_or(|id| ids.insert(id))
            }
            _ => false,
        })
}

/// Whether a batch needs pools of which it has no class: an audit, and one that changes a pool itself.
fn reads_all(batch: &Batch) -> bool {
    let changes = |operation: &Operation| {
        matches!(
            operation,
            Operation::SetExternalUsage { .. } | Operation::ConfirmNotice { .. }
        )
    };
    batch.operations.is_empty() || batch.operations.iter().any(changes)
}

/// The pools, rows and classes of a batch, each once. Numbers begin at 1, as in Lua.
#[derive(Default)]
struct Dictionary<'b> {
    pools: IndexSet<&'b PoolName>,
    shares: IndexSet<&'b ShareId>,
    /// With the field of each.
    rows: IndexMap<(&'b ProjectId, &'b ModelName), String>,
    classes: IndexSet<RequestClass>,
    /// The last Reserve and its class: a gateway's requests come in runs of one class.
    last: Option<(&'b RequestFields, &'b Eligibility, bool, usize)>,
}

/// What Reserves have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct RequestClass {
    target: Target,
    workload: char,
    row: usize,
    is_listed: bool,
    /// The number of its share among the shares, if it has one.
    share: Option<usize>,
}

/// The number of a pool, or the code of the reason for being billed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Target {
    Pool(usize),
    Billed(char),
}

impl<'b> Dictionary<'b> {
    /// That of a batch's operations, and they as they are sent.
    fn of(batch: &'b Batch) -> (Self, MsgPackWriter) {
        let (mut dictionary, mut written) = (Self::default(), MsgPackWriter::default());
        for operation in &batch.operations {
            written.operation(&mut dictionary, batch, operation);
        }
        (dictionary, written)
    }

    /// Adds the pools and shares that no class has, and that the batch may need.
    fn add_named(
        &mut self,
        batch: &'b Batch,
        options: &'b BatchOptions,
        snapshots: [&'b [PoolSnapshot]; 2],
    ) {
        let mut counters: Vec<&CounterId> = options.extra.iter().collect();
        if batch.operations.is_empty() {
            counters.extend(snapshots.into_iter().flatten().map(|it| &it.counter));
        }
        let terms = &*batch.terms;
        let ends_reservation =
            |it: &Operation| matches!(it, Operation::Settle { .. } | Operation::Release { .. });
        if batch.operations.iter().any(ends_reservation) {
            let shares = terms.shares.iter().map(|(id, _)| id);
            self.shares.extend(shares.take(MAX_POSSIBLE_SHARES));
        }
        for counter in counters {
            match counter {
                CounterId::Pool(pool) => _ = self.pools.insert(pool),
                CounterId::Share(share) => _ = self.shares.insert(share),
            }
        }
    }

    /// The class of the last Reserve; before the first one, class 1, as in the script.
    fn last_class(&self) -> usize {
        self.last.map_or(1, |(.., class)| class)
    }

    fn class(
        &mut self,
        shares: Option<&'b Terms>,
        fields: &'b RequestFields,
        eligibility: &'b Eligibility,
        is_listed: bool,
    ) -> usize {
        let (project, model) = (&fields.project, &fields.model);
        if let Some((last, last_eligibility, has_shares, class)) = self.last
            && (&last.project, &last.model) == (project, model)
            && (last.workload, last_eligibility) == (fields.workload, eligibility)
            && has_shares == shares.is_some()
        {
            return class;
        }
        let (target, share) = match eligibility {
            Eligibility::Ineligible(reason) => {
                (Target::Billed(verdict_code(Verdict::Billed(*reason))), None)
            }
            Eligibility::Eligible(pool) => (
                Target::Pool(self.pools.insert_full(pool).0 + 1),
                shares
                    .and_then(|terms| terms.share(pool, project))
                    .map(|(id, _)| self.shares.insert_full(id).0 + 1),
            ),
        };
        let row = self.rows.entry((project, model));
        let row_number = row.index() + 1;
        row.or_insert_with(|| keys::row_field(project, model));
        let class = RequestClass {
            target,
            workload: workload_code(fields.workload),
            row: row_number,
            is_listed,
            share,
        };
        let number = self.classes.insert_full(class).0 + 1;
        self.last = Some((fields, eligibility, shares.is_some(), number));
        number
    }
}

/// Writes consecutive MessagePack values.
#[derive(Default)]
struct MsgPackWriter(Vec<u8>);

const VEC: &str = "a Vec takes every byte";

impl MsgPackWriter {
    fn operation<'b>(
        &mut self,
        dictionary: &mut Dictionary<'b>,
        batch: &'b Batch,
        operation: &'b Operation,
    ) {
        let Batch { terms, day, .. } = batch;
        match operation {
            Operation::Reserve {
                request_id,
                fields,
                eligibility,
                is_listed,
                recording,
                has_run,
            } => {
                let before = dictionary.last_class();
                let shares = (!has_run).then_some(&**terms);
                let class = dictionary.class(shares, fields, eligibility, *is_listed);
                if class != before {
                    self.code(SET_CLASS);
                    self.number(class as u64);
                }
                match (request_id, recording.writes()) {
                    (None, true) => {}
                    (None, false) => self.code(DRY_RUN),
                    (Some(_), true) => self.code(RESERVE_WITH_ID),
                    (Some(_), false) => self.code(DRY_RUN_WITH_ID),
                }
                self.number(fields.tokens.get());
            }
            Operation::Settle {
                tokens,
                outside_program,
                ..
            } => {
                self.code(if *outside_program {
                    SETTLE_OUTSIDE
                } else {
                    SETTLE
                });
                self.number(tokens.get());
            }
            Operation::Release { .. } => self.code(RELEASE),
            Operation::SetExternalUsage {
                pool,
                source,
                tokens,
            } => {
                self.code(SET_EXTERNAL);
                self.number(dictionary.pools.insert_full(pool).0 as u64 + 1);
                self.number(match source {
                    ExternalSource::Manual => 1,
                    ExternalSource::Reconciled => 2,
                });
                self.number(tokens.get());
            }
            Operation::ConfirmNotice {
                pool,
                day: of_day,
                threshold,
            } => {
                let pool = dictionary.pools.insert_full(pool).0 as u64 + 1;
                self.confirmation(pool, Some(*threshold).filter(|_| of_day == day));
            }
        }
    }

    /// That the notice of a threshold of a pool was delivered; none: of no threshold.
    fn confirmation(&mut self, pool: u64, threshold: Option<Threshold>) {
        let [low, high] = Thresholds::from_iter(threshold).to_halves();
        self.code(CONFIRM);
        for number in [pool, u64::from(high > 0), low | high] {
            self.number(number);
        }
    }

    /// The header up to the numbers of items. `n_keys`: how many keys the call has before the batch's.
    fn header(
        &mut self,
        batch: &Batch,
        has_duplicates: bool,
        n_keys: usize,
        options: &BatchOptions,
    ) {
        let terms = &*batch.terms;
        self.flag(terms.overflow == Overflow::CloseUntilReset);
        self.number(n_keys as u64 + 1);
        self.flag(options.sends_snapshots);
        self.flag(has_duplicates);
        self.flag(reads_all(batch));
        // Only reservations are carried.
        let mut operations = batch.operations.iter();
        let has_ids = operations.any(|it| it.request_id().is_some());
        match terms.carries_from(batch.day).filter(|_| has_ids) {
            Some(from) => self.number(from.timestamp().unsigned_abs()),
            None => self.flag(false),
        }
    }

    /// A pool or a share: its name, its terms, its snapshot whole or only its seq.
    fn counter(
        &mut self,
        day: UtcDay,
        counter: CounterId,
        terms: PoolTerms,
        snapshots: &[PoolSnapshot],
        options: &BatchOptions,
    ) -> NamedPool {
        let snapshot = snapshots.iter().find(|it| it.counter == counter);
        let seq = snapshot.map_or(0, |it| it.seq);
        let peak = snapshot.map_or(Tokens::ZERO, |it| it.peak);
        let next = terms.thresholds.next(terms.allowance, peak);
        self.text(&counter.encoded());
        self.number(terms.allowance.get());
        self.number(terms.reservable().get());
        self.number(next.map_or(NEVER_COUNTED, Tokens::get));
        match snapshot {
            Some(snapshot) if options.sends_snapshots => self.bytes(&snapshot.record),
            _ => self.number(seq),
        }
        NamedPool { day, counter, seq }
    }

    /// `n_pools`: the shares have the numbers after the pools'.
    fn rows_and_classes(&mut self, dictionary: &Dictionary<'_>, n_pools: usize) {
        for row in dictionary.rows.values() {
            self.text(row);
        }
        for class in &dictionary.classes {
            match class.target {
                Target::Pool(number) => self.number(number as u64),
                Target::Billed(code) => self.text(code.encode_utf8(&mut [0; 4])),
            }
            self.number(class.row as u64);
            match class.share {
                Some(share) => self.number((n_pools + share) as u64),
                None => self.flag(class.is_listed),
            }
        }
    }

    /// The fields that are read with the ids. No id equals one, since they begin with a control character.
    fn lookups(&mut self, dictionary: &Dictionary<'_>) {
        self.text("\u{1}");
        for class in &dictionary.classes {
            let pool = match class.target {
                Target::Pool(number) => keys::encode(dictionary.pools[number - 1].as_str()),
                Target::Billed(_) => "".into(),
            };
            let in_share = if class.share.is_some() { "+" } else { "" };
            let (workload, row) = (class.workload, &dictionary.rows[class.row - 1]);
            self.text(&format!("\u{1}{pool}{in_share}:{workload}:{row}"));
        }
        for pool in &dictionary.pools {
            self.text(&keys::held_field(pool));
        }
    }

    fn number(&mut self, number: u64) {
        rmp::encode::write_uint(&mut self.0, number).expect(VEC);
    }

    fn numbers<const COUNT: usize>(&mut self, numbers: [usize; COUNT]) {
        for number in numbers {
            self.number(number as u64);
        }
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
            "local RESERVE, RESERVE_WITH_ID, DRY_RUN_WITH_ID, DRY_RUN = \
             0, {RESERVE_WITH_ID}, {DRY_RUN_WITH_ID}, {DRY_RUN}\n\
             local SETTLE, SETTLE_OUTSIDE, RELEASE, SET_CLASS, SET_EXTERNAL, CONFIRM = \
             {SETTLE}, {SETTLE_OUTSIDE}, {RELEASE}, {SET_CLASS}, {SET_EXTERNAL}, {CONFIRM}\n"
        );
        assert!(include_str!("call.lua").contains(&codes), "{codes}");
    }
}
