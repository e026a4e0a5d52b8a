//! What differs between two versions. Costs what differs, not what there is: parts that both share are not looked at.

mod pairs;
mod sight;

pub use pairs::{Pair, compare};
pub use sight::{Node, Place, Sight};
