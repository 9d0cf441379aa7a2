//! A sorted set of keys in little memory.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Keys in one block before it is split in two.
const BLOCK_KEYS: usize = 64;

/// Sorted keys, each block of them written as differences: a key costs the bytes that tell it from its
/// neighbour, and two more.
#[derive(Debug, Default)]
pub struct KeySet {
    /// By each block's first key.
    blocks: BTreeMap<Box<[u8]>, Box<[u8]>>,
    keys: usize,
}

impl KeySet {
    /// Number of keys.
    pub fn len(&self) -> usize {
        self.keys
    }

    /// Adds a key; whether it was new. Keys over 65,535 bytes are not kept.
    pub fn insert(&mut self, key: &[u8]) -> bool {
        if u16::try_from(key.len()).is_err() {
            return false;
        }
        let first = self.block_of(key);
        let mut keys = match &first {
            Some(first) => self.blocks.remove(first).map(|block| read(&block)).unwrap_or_default(),
            None => Vec::new(),
        };
        let new = match keys.binary_search_by(|known| known.as_slice().cmp(key)) {
            Ok(_) => false,
            Err(place) => {
                keys.insert(place, key.to_vec());
                self.keys += 1;
                true
            }
        };
        self.store(keys);
        new
    }

    /// Removes and returns the keys that begin with `prefix` and satisfy `wanted`, in order.
    pub fn take(&mut self, prefix: &[u8], wanted: impl Fn(&[u8]) -> bool) -> Vec<Bytes> {
        let from = self.block_of(prefix).unwrap_or_else(|| prefix.into());
        let reached: Vec<Box<[u8]>> = self
            .blocks
            .range::<[u8], _>((std::ops::Bound::Included(&*from), std::ops::Bound::Unbounded))
            .map(|(first, _)| first)
            .take_while(|first| first.as_ref() <= prefix || first.starts_with(prefix))
            .cloned()
            .collect();
        let mut taken = Vec::new();
        for first in reached {
            let Some(block) = self.blocks.get(&first) else { continue };
            let (gone, kept): (Vec<_>, Vec<_>) =
                read(block).into_iter().partition(|key| key.starts_with(prefix) && wanted(key));
            if !gone.is_empty() {
                self.blocks.remove(&first);
                self.keys -= gone.len();
                taken.extend(gone.into_iter().map(Bytes::from));
                self.store(kept);
            }
        }
        taken
    }

    /// The block that would hold `key`: the last that begins at or before it, else the first.
    fn block_of(&self, key: &[u8]) -> Option<Box<[u8]>> {
        let before = (std::ops::Bound::Unbounded, std::ops::Bound::Included(key));
        let last = self.blocks.range::<[u8], _>(before).next_back();
        last.or_else(|| self.blocks.first_key_value()).map(|(first, _)| first.clone())
    }

    fn store(&mut self, keys: Vec<Vec<u8>>) {
        let half = if keys.len() > BLOCK_KEYS { keys.len() / 2 } else { keys.len().max(1) };
        for keys in keys.chunks(half) {
            if let Some(first) = keys.first() {
                self.blocks.insert(first.as_slice().into(), write(keys));
            }
        }
    }
}

/// Each key as: bytes shared with the one before (u8), bytes of its own (u16, little endian), those bytes.
fn write(keys: &[Vec<u8>]) -> Box<[u8]> {
    let mut block = Vec::new();
    let mut before: &[u8] = &[];
    for key in keys {
        let shared = key.iter().zip(before).take_while(|(a, b)| a == b).count().min(255);
        let own = key.get(shared..).unwrap_or_default();
        block.push(u8::try_from(shared).unwrap_or(0));
        block.extend(u16::try_from(own.len()).unwrap_or(0).to_le_bytes());
        block.extend(own);
        before = key;
    }
    block.into()
}

fn read(mut block: &[u8]) -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = Vec::with_capacity(BLOCK_KEYS + 1);
    while let [shared, low, high, rest @ ..] = block {
        let own = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (own, behind) = rest.split_at(own);
        let mut key = Vec::with_capacity(usize::from(*shared) + own.len());
        if let Some(start) = keys.last().and_then(|before| before.get(..usize::from(*shared))) {
            key.extend_from_slice(start);
        }
        key.extend_from_slice(own);
        keys.push(key);
        block = behind;
    }
    keys
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_neighbour_with_the_same_digits_stays() {
        let mut set = KeySet::default();
        for key in ["f:live:12:a", "f:live:12:b", "f:live:123:a", "f:live:1:a"] {
            assert!(set.insert(key.as_bytes()));
        }
        assert_eq!(set.take(b"f:live:12:", |_| true), ["f:live:12:a", "f:live:12:b"]);
        assert!(set.take(b"f:live:12:", |_| true).is_empty());
        assert_eq!(set.len(), 2);
    }

    #[test]
    fn a_million_keys_fit_in_32_mib() {
        let mut set = KeySet::default();
        for id in 0..200_000 {
            for part in ["a", "b", "c", "d", "e"] {
                set.insert(format!("financial_summary:live:{id}:2026-01-{part}").as_bytes());
            }
        }
        let bytes: usize = set.blocks.iter().map(|(first, block)| first.len() + block.len() + 64).sum();
        assert_eq!(set.len(), 1_000_000);
        assert!(bytes < 32 << 20, "{bytes}");
    }

    proptest! {
        #[test]
        fn it_holds_what_a_plain_set_holds(
            keys in proptest::collection::vec("[ab]{0,5}", 0..300),
            prefixes in proptest::collection::vec("[ab]{1,3}", 0..10),
        ) {
            let (mut set, mut model) = (KeySet::default(), BTreeSet::new());
            for key in &keys {
                prop_assert_eq!(set.insert(key.as_bytes()), model.insert(key.clone()));
            }
            for prefix in &prefixes {
                let expected: Vec<Bytes> =
                    model.iter().filter(|key| key.starts_with(prefix)).map(|key| key.clone().into()).collect();
                model.retain(|key| !key.starts_with(prefix));
                prop_assert_eq!(set.take(prefix.as_bytes(), |_| true), expected);
                prop_assert_eq!(set.len(), model.len());
            }
        }
    }
}
