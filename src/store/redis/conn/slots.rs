//! The hash slots of a cluster, and the node of each.

use std::{
    collections::{HashMap, HashSet},
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
    pub(crate) nodes: HashSet<Host>,
    pub(crate) masters: HashMap<Slot, Host>,
    tags: OnceLock<Vec<String>>,
}

impl Slots {
    /// Parses the reply to CLUSTER SLOTS; `None` if it has no slot.
    pub(crate) fn parse(reply: Value, from: &Host) -> Option<Self> {
        let mut nodes = HashSet::new();
        let mut masters = HashMap::new();
        for range in redis::from_redis_value::<Vec<Vec<Value>>>(reply).ok()? {
            let mut range = range.into_iter();
            let first: u16 = redis::from_redis_value(range.next()?).ok()?;
            let last: u16 = redis::from_redis_value(range.next()?).ok()?;
            let listed: Vec<Option<Host>> = range.map(|node| read_node(node, from)).collect();
            // The slots of a master without an address have no master.
            if let Some(Some(master)) = listed.first() {
                let range = (first..=last).filter_map(Slot::new);
                masters.extend(range.map(|slot| (slot, master.clone())));
            }
            nodes.extend(listed.into_iter().flatten());
        }
        (!masters.is_empty()).then(|| Self {
            tags: OnceLock::new(),
            nodes,
            masters,
        })
    }

    /// A copy with one slot at another master.
    pub(crate) fn with(&self, slot: Slot, master: &Host) -> Self {
        let mut slots = self.clone();
        slots.nodes.insert(master.clone());
        slots.masters.insert(slot, master.clone());
        slots.tags = OnceLock::new();
        slots
    }

    /// For each master, a hash tag in one of its slots. Only the probe needs them.
    pub(crate) fn tags(&self) -> &[String] {
        self.tags.get_or_init(|| tags(&self.masters))
    }
}

fn tags(masters: &HashMap<Slot, Host>) -> Vec<String> {
    let mut untagged: HashSet<&Host> = masters.values().collect();
    let mut tags = Vec::new();
    for tag in 0..MAX_TAGS {
        if untagged.is_empty() {
            break;
        }
        let tag = tag.to_string();
        let master = masters.get(&Slot::for_key(&tag));
        if master.is_some_and(|master| untagged.remove(master)) {
            tags.push(tag);
        }
    }
    tags
}

/// `[name, port, id, …]`. A node without a name is the one that replied, `from`.
fn read_node(node: Value, from: &Host) -> Option<Host> {
    let node: Vec<Value> = redis::from_redis_value(node).ok()?;
    let mut node = node.into_iter();
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
        Value::Array(vec![name, Value::Int(port)])
    }

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn range(first: i64, last: i64, nodes: &[Value]) -> Value {
        Value::Array([&[Value::Int(first), Value::Int(last)], nodes].concat())
    }

    fn parse(ranges: &[Value]) -> Option<Slots> {
        Slots::parse(Value::Array(ranges.to_vec()), &Host::new("here", 1))
    }

    #[test]
    fn every_slot_has_the_master_that_the_node_lists_and_every_master_has_a_tag() {
        let slots = parse(&[
            range(0, 100, &[node(text("a"), 1), node(text("r"), 9)]),
            range(101, 16383, &[node(Value::Nil, 2)]),
        ]);
        let slots = slots.unwrap();
        let master = |slots: &Slots, slot| slots.masters[&Slot::new(slot).unwrap()].to_string();
        assert_eq!(master(&slots, 100), "a:1");
        assert_eq!(master(&slots, 101), "here:2");
        assert_eq!(slots.nodes.len(), 3);
        let tagged = slots.tags().iter().map(Slot::for_key);
        let tagged: HashSet<_> = tagged.map(|slot| slots.masters[&slot].port).collect();
        assert_eq!((slots.tags().len(), tagged), (2, HashSet::from([1, 2])));
        let moved = slots.with(Slot::new(5).unwrap(), &Host::new("b", 3));
        assert_eq!(master(&moved, 5), "b:3");
        assert_eq!(master(&moved, 6), "a:1");
    }

    #[test]
    fn a_reply_without_slots_is_rejected() {
        assert!(parse(&[]).is_none());
        assert!(parse(&[range(0, 16383, &[node(text("?"), 1)])]).is_none());
        assert!(Slots::parse(Value::Nil, &Host::new("here", 1)).is_none());
    }
}
