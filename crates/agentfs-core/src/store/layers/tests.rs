//! Pieces and claims, beside a plain list of who has what.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::{BTreeSet, HashSet};

use proptest::prelude::*;

use super::*;
use crate::store::{BLOCK, Device, Durability, Live, Memory, PackLimits, Store};
use crate::types::Epoch;

/// Bytes are looked at in units of so many, of which several make a block.
const UNIT: u64 = 1024;
const UNITS: usize = 48;
const OBJECTS: usize = 3;

/// What a version is to have in each unit: an object, and which unit of that.
type Plain = Vec<Option<(usize, u64)>>;

#[derive(Clone, Debug)]
enum Step {
    Piece { version: u8, start: usize, len: usize, object: usize, at: u64 },
    Hole { version: u8, start: usize, len: usize },
    Copy(u8),
    Drop(u8),
    Punch,
}

fn step() -> impl Strategy<Value = Step> {
    let stretch = || (any::<u8>(), 0..UNITS, 1..20_usize);
    prop_oneof![
        6 => (stretch(), 0..OBJECTS, any::<bool>(), 0..UNITS as u64).prop_map(
            |((version, start, len), object, is_same, at)| {
                let len = len.min(UNITS - start);
                let at = if is_same { start as u64 } else { at.min((UNITS - len) as u64) };
                Step::Piece { version, start, len, object, at }
            }
        ),
        3 => stretch().prop_map(|(version, start, len)| {
            Step::Hole { version, start, len: len.min(UNITS - start) }
        }),
        2 => any::<u8>().prop_map(Step::Copy),
        2 => any::<u8>().prop_map(Step::Drop),
        1 => Just(Step::Punch),
    ]
}

/// All is durable at once.
struct Always;

impl Durability for Always {
    fn position(&self) -> u64 {
        0
    }
    fn durable(&self) -> u64 {
        u64::MAX
    }
}

/// Some files of which versions have parts, in memory.
struct World {
    store: Store,
    device: Arc<Memory>,
    backings: Vec<Arc<Backing>>,
    /// Blocks of each file that the host holds.
    held: Vec<BTreeSet<u64>>,
    /// Blocks that ever were named.
    touched: Vec<BTreeSet<u64>>,
    versions: Vec<(Layers, Plain)>,
}

impl World {
    fn new() -> World {
        let device = Arc::new(Memory::default());
        let store =
            Store::new(device.clone(), Arc::new(Always), PackLimits { size: 1 << 20, slack: 1 << 20 });
        store.serve();
        let made: Vec<_> = (0..OBJECTS).map(|_| store.create().unwrap()).collect();
        let bytes = vec![1; UNITS * UNIT as usize];
        made.iter().for_each(|(_, file)| assert_eq!(file.write_at(&bytes, 0).unwrap(), bytes.len()));
        let backings = made.iter().map(|(id, _)| store.adopt_backing(*id, Epoch(1))).collect();
        let all = (0..UNITS as u64 * UNIT / BLOCK).collect::<BTreeSet<_>>();
        let versions = vec![(Layers::default(), vec![None; UNITS])];
        let (held, touched) = (vec![all; OBJECTS], vec![BTreeSet::new(); OBJECTS]);
        World { store, device, backings, held, touched, versions }
    }

    fn apply(&mut self, step: &Step) {
        let live = self.versions.len();
        let pick = |version: u8| usize::from(version) % live;
        match *step {
            Step::Piece { version, start, len, object, at } => {
                // What went is not named again.
                let blocks: BTreeSet<u64> = (at..at + len as u64).map(|unit| unit * UNIT / BLOCK).collect();
                if !blocks.is_subset(&self.held[object]) {
                    return;
                }
                self.touched[object].extend(blocks);
                let (layers, plain) = &mut self.versions[pick(version)];
                let claim = Claim::new(self.backings[object].clone(), at * UNIT, len as u64 * UNIT);
                let change = Change::piece(start as u64 * UNIT, claim);
                let bytes = layers.bytes_with(std::slice::from_ref(&change));
                layers.apply(&change);
                assert_eq!(bytes, layers.bytes());
                (0..len).for_each(|n| plain[start + n] = Some((object, at + n as u64)));
            }
            Step::Hole { version, start, len } => {
                let (layers, plain) = &mut self.versions[pick(version)];
                layers.apply(&Change::hole(start as u64 * UNIT, len as u64 * UNIT));
                plain[start..start + len].fill(None);
            }
            Step::Copy(version) => {
                let copy = self.versions[pick(version)].clone();
                if self.versions.len() < 6 {
                    self.versions.push(copy);
                }
            }
            Step::Drop(version) => {
                if self.versions.len() > 1 {
                    self.versions.remove(pick(version));
                }
            }
            Step::Punch => self.punch(),
        }
    }

    /// The blocks of a file that versions have something of.
    fn needed(&self, object: usize) -> BTreeSet<u64> {
        let units = self.versions.iter().flat_map(|(_, plain)| plain.iter().flatten());
        units.filter(|(of, _)| *of == object).map(|(_, at)| at * UNIT / BLOCK).collect()
    }

    fn punch(&mut self) {
        self.store.punch(&Live { epochs: HashSet::new(), next: Epoch(u64::MAX) }, usize::MAX);
        for object in 0..OBJECTS {
            let file = self.device.open(crate::store::FileId::Object(self.backings[object].id)).unwrap();
            let has = |block: &u64| {
                let mut byte = [0];
                file.read_at(&mut byte, block * BLOCK).unwrap();
                byte == [1]
            };
            let all = 0..UNITS as u64 * UNIT / BLOCK;
            let held: BTreeSet<u64> = all.filter(has).collect();
            assert_eq!(file.stat().unwrap().blocks, held.len() as u64 * BLOCK / 512);
            assert!(held.is_superset(&self.needed(object)), "a block went that a version has");
            self.held[object] = held;
        }
    }

    fn check(&self) {
        for (layers, plain) in &self.versions {
            let mut found: Plain = vec![None; UNITS];
            let mut last = 0;
            for (start, claim) in layers.pieces() {
                assert!(start >= last, "pieces overlap");
                last = start + claim.len();
                let object = self.backings.iter().position(|b| b.id == claim.backing().id).unwrap();
                for n in 0..claim.len() / UNIT {
                    found[((start / UNIT) + n) as usize] = Some((object, claim.at() / UNIT + n));
                }
            }
            assert_eq!(&found, plain);
            assert_eq!(layers.bytes(), plain.iter().flatten().count() as u64 * UNIT);
            for (object, backing) in self.backings.iter().enumerate() {
                let bytes = plain.iter().flatten().filter(|(of, _)| *of == object).count() as u64 * UNIT;
                assert_eq!(layers.owner(backing.id).map_or(0, |owner| owner.bytes), bytes);
                let place = |n: usize| plain[n] == Some((object, n as u64));
                for (from, to) in [(0, UNITS), (3, 9), (10, 11)] {
                    let lies = (from..to).all(place);
                    let (from, to) = (from as u64 * UNIT, to as u64 * UNIT);
                    assert_eq!(layers.lies_in(backing.id, from, to), lies);
                }
            }
            let at = |unit: Option<usize>| unit.map(|unit| unit as u64 * UNIT);
            for from in 0..UNITS {
                let data = (from..UNITS).find(|n| plain[*n].is_some());
                assert_eq!(layers.next_data(from as u64 * UNIT), at(data));
                let hole = (from..UNITS).find(|n| plain[*n].is_none()).unwrap_or(UNITS);
                assert_eq!(Some(layers.next_hole(from as u64 * UNIT)), at(Some(hole)));
            }
        }
        let (first, plain) = &self.versions[0];
        for (other, other_plain) in &self.versions {
            let mut made = first.clone();
            first.changes_to(other).iter().for_each(|change| made.apply(change));
            assert_eq!(&made, other);
            assert_eq!(first == other, plain == other_plain);
            let differs = |n: &usize| plain[*n] != other_plain[*n];
            let first_difference = (0..UNITS).find(differs).map_or(u64::MAX, |n| n as u64 * UNIT);
            let told = first.same_until(other, 0);
            assert!(told <= first_difference);
            // It says less only where one has a hole, or a piece begins or ends.
            assert!(told == first_difference || told < UNITS as u64 * UNIT);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn pieces_are_where_they_were_put_and_what_nobody_has_is_given_back(
        steps in proptest::collection::vec(step(), 1..80)
    ) {
        let mut world = World::new();
        for step in &steps {
            world.apply(step);
            world.check();
        }
        world.punch();
        for object in 0..OBJECTS {
            // What nothing ever named was never let go of.
            let held: BTreeSet<u64> = world.held[object].intersection(&world.touched[object]).copied().collect();
            prop_assert_eq!(held, world.needed(object));
        }
    }
}
