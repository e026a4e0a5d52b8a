//! Texts and edits of them, the same in every run.

/// A text before and after.
pub(super) struct Case {
    pub(super) kind: &'static str,
    pub(super) old: String,
    pub(super) new: String,
}

/// A generator of numbers (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 8).unwrap() % limit
    }
}

/// Small edits of code, larger ones, few distinct lines, and edits that git's search gives up on.
pub(super) fn cases() -> Vec<Case> {
    let mut dice = Dice(1);
    let mut cases = Vec::new();
    for (kind, count, lines, edits, words) in [
        ("few edits", 200, 60, 5, 40),
        ("many edits", 200, 150, 40, 60),
        ("few distinct lines", 200, 40, 12, 2),
        ("large", 40, 2500, 300, 300),
        ("rewritten", 20, 1500, 3000, 30),
    ] {
        for _ in 0..count {
            let old = code(&mut dice, 1 + lines / 2, lines, words);
            let new = edited(&mut dice, &old, edits, words);
            if old != new {
                cases.push(Case { kind, old: finished(&mut dice, &old), new: finished(&mut dice, &new) });
            }
        }
    }
    cases.retain(|case| case.old != case.new);
    cases
}

/// Blocks in blocks, with blank lines between them.
fn code(dice: &mut Dice, least: usize, most: usize, words: usize) -> Vec<String> {
    let length = least + dice.below(most);
    let (mut lines, mut depth) = (Vec::new(), 0_usize);
    while lines.len() < length {
        match dice.below(10) {
            0 => lines.push(String::new()),
            1 | 2 if depth < 5 => {
                lines.push(indented(depth, &format!("fn f{}() {{", dice.below(words))));
                depth += 1;
            }
            3 | 4 if depth > 0 => {
                depth -= 1;
                lines.push(indented(depth, "}"));
            }
            _ => lines.push(indented(depth, &format!("call({});", dice.below(words)))),
        }
    }
    lines
}

fn indented(depth: usize, text: &str) -> String {
    let unit = if text.len() % 7 == 3 { "\t" } else { "    " };
    unit.repeat(depth) + text
}

/// Lines are removed, doubled, moved, put in, changed.
fn edited(dice: &mut Dice, old: &[String], edits: usize, words: usize) -> Vec<String> {
    let mut lines = old.to_vec();
    for _ in 0..1 + dice.below(edits) {
        let at = dice.below(lines.len() + 1);
        let end = (at + 1 + dice.below(8)).min(lines.len());
        match dice.below(6) {
            0 => drop(lines.drain(at..end)),
            1 => {
                let copy = lines[at..end].to_vec();
                lines.splice(at..at, copy);
            }
            2 => {
                let moved: Vec<String> = lines.drain(at..end).collect();
                let to = dice.below(lines.len() + 1);
                lines.splice(to..to, moved);
            }
            3 => drop(lines.splice(at..at, code(dice, 1, 8, words))),
            4 => drop(lines.splice(at..end, code(dice, 1, 4, words))),
            _ => lines.insert(at, String::new()),
        }
    }
    lines
}

/// Some texts have no newline at their end.
fn finished(dice: &mut Dice, lines: &[String]) -> String {
    let text = lines.join("\n");
    if dice.below(8) == 0 || text.is_empty() { text } else { text + "\n" }
}
