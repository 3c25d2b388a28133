//! The hash slots of a cluster, and the node of each.

use std::{
    collections::{BTreeSet, HashMap},
    sync::OnceLock,
};

use redis::{Value, cluster_routing::Slot};

use super::url::Host;

/// Maximum number of tags that are tried to find one for every master. A master with a hundredth of the slots has
/// one among the first few hundred.
const MAX_TAGS: usize = 100_000;

/// The slots and their masters, as a node lists them.
#[derive(Clone)]
pub(crate) struct Slots {
    /// All nodes, replicas too: any of them can list the slots.
    nodes: Vec<Host>,
    /// For each slot, the index of its master in `nodes`.
    masters: HashMap<Slot, usize>,
    tags: OnceLock<Vec<String>>,
}

impl Slots {
    /// Parses the reply to CLUSTER SLOTS; `None` if it has no slot.
    pub(crate) fn parse(reply: Value, from: &Host) -> Option<Self> {
        let mut slots = Self {
            nodes: Vec::new(),
            masters: HashMap::new(),
            tags: OnceLock::new(),
        };
        for range in redis::from_redis_value::<Vec<Vec<Value>>>(reply).ok()? {
            let mut range = range.into_iter();
            let first: u16 = redis::from_redis_value(range.next()?).ok()?;
            let last: u16 = redis::from_redis_value(range.next()?).ok()?;
            let nodes: Vec<Option<Host>> = range.map(|node| read_node(node, from)).collect();
            for replica in nodes.iter().skip(1).flatten() {
                slots.index_of(replica);
            }
            // The slots of a master without an address have no master.
            let Some(Some(master)) = nodes.first() else {
                continue;
            };
            let master = slots.index_of(master);
            let range = (first..=last).filter_map(Slot::new);
            slots.masters.extend(range.map(|slot| (slot, master)));
        }
        (!slots.masters.is_empty()).then_some(slots)
    }

    pub(crate) fn master(&self, slot: Slot) -> Option<&Host> {
        self.nodes.get(*self.masters.get(&slot)?)
    }

    pub(crate) fn nodes(&self) -> &[Host] {
        &self.nodes
    }

    /// A copy with one slot at another master.
    pub(crate) fn with(&self, slot: Slot, master: &Host) -> Self {
        let mut slots = self.clone();
        let master = slots.index_of(master);
        slots.masters.insert(slot, master);
        slots.tags = OnceLock::new();
        slots
    }

    /// For each master, a hash tag in one of its slots.
    pub(crate) fn tags(&self) -> &[String] {
        self.tags.get_or_init(|| {
            let mut untagged: BTreeSet<usize> = self.masters.values().copied().collect();
            let mut tags = Vec::new();
            for tag in 0..MAX_TAGS {
                if untagged.is_empty() {
                    break;
                }
                let tag = tag.to_string();
                let master = self.masters.get(&Slot::for_key(&tag));
                if master.is_some_and(|master| untagged.remove(master)) {
                    tags.push(tag);
                }
            }
            tags
        })
    }

    fn index_of(&mut self, host: &Host) -> usize {
        let known = self.nodes.iter().position(|node| node == host);
        known.unwrap_or_else(|| {
            self.nodes.push(host.clone());
            self.nodes.len() - 1
        })
    }
}

/// `[name, port, id, …]`. A node without a name is the one that replied, `from`.
fn read_node(node: Value, from: &Host) -> Option<Host> {
    let mut node = redis::from_redis_value::<Vec<Value>>(node)
        .ok()?
        .into_iter();
    let name: Option<String> = redis::from_redis_value(node.next()?).ok()?;
    let port = redis::from_redis_value(node.next()?).ok()?;
    match name.as_deref() {
        None | Some("") => Some(Host::new(&from.name, port)),
        // The node should announce a host name, and has none.
        Some("?") => None,
        Some(name) => Some(Host::new(name, port)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn node(name: Value, port: i64) -> Value {
        let id = Value::SimpleString("id".to_owned());
        Value::Array(vec![name, Value::Int(port), id, Value::Array(Vec::new())])
    }

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn range(first: i64, last: i64, nodes: Vec<Value>) -> Value {
        Value::Array([vec![Value::Int(first), Value::Int(last)], nodes].concat())
    }

    fn from() -> Host {
        Host::new("here", 1)
    }

    #[test]
    fn every_slot_has_the_master_that_the_node_lists() {
        let reply = Value::Array(vec![
            range(0, 8191, vec![node(text("a"), 1), node(text("r"), 9)]),
            range(8192, 16383, vec![node(Value::Nil, 2)]),
        ]);
        let slots = Slots::parse(reply, &from()).unwrap();
        let master = |slot| slots.master(Slot::new(slot).unwrap()).cloned();
        assert_eq!(master(0), Some(Host::new("a", 1)));
        assert_eq!(master(8191), Some(Host::new("a", 1)));
        assert_eq!(master(8192), Some(Host::new("here", 2)));
        assert_eq!(slots.nodes().len(), 3);
        let moved = slots.with(Slot::new(5).unwrap(), &Host::new("b", 3));
        assert_eq!(
            moved.master(Slot::new(5).unwrap()),
            Some(&Host::new("b", 3))
        );
        assert_eq!(
            moved.master(Slot::new(6).unwrap()),
            Some(&Host::new("a", 1))
        );
    }

    #[test]
    fn every_master_has_a_tag_and_replicas_have_none() {
        let reply = Value::Array(vec![
            range(0, 100, vec![node(text("a"), 1), node(text("r"), 9)]),
            range(101, 16383, vec![node(text("b"), 2)]),
        ]);
        let slots = Slots::parse(reply, &from()).unwrap();
        let masters: Vec<_> = slots
            .tags()
            .iter()
            .map(|tag| slots.master(Slot::for_key(tag)).unwrap())
            .collect();
        assert_eq!(masters.len(), 2);
        assert!(masters.contains(&&Host::new("a", 1)) && masters.contains(&&Host::new("b", 2)));
    }

    #[test]
    fn a_reply_without_slots_is_rejected() {
        let unnamed = range(0, 16383, vec![node(text("?"), 1)]);
        for reply in [
            Value::Array(Vec::new()),
            Value::Nil,
            Value::Array(vec![unnamed]),
        ] {
            assert!(Slots::parse(reply, &from()).is_none());
        }
    }
}
