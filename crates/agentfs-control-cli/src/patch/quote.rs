//! File names as git prints them: plain, or in C's quotes when a byte in them is unusual.

/// A name after `prefix` (`a/`, `b/` or nothing).
pub(crate) fn quoted(prefix: &[u8], name: &[u8]) -> Vec<u8> {
    let plain = [prefix, name].concat();
    if plain.iter().all(|byte| is_usual(*byte)) {
        return plain;
    }
    let mut quoted = vec![b'"'];
    for byte in plain {
        push(&mut quoted, byte);
    }
    quoted.push(b'"');
    quoted
}

fn is_usual(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

fn push(quoted: &mut Vec<u8>, byte: u8) {
    let letter = match byte {
        b'"' | b'\\' => byte,
        0x07 => b'a',
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0b => b'v',
        0x0c => b'f',
        b'\r' => b'r',
        _ if is_usual(byte) => return quoted.push(byte),
        _ => return quoted.extend(format!("\\{byte:03o}").bytes()),
    };
    quoted.extend([b'\\', letter]);
}
