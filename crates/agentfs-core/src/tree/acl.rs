//! POSIX ACLs: kept as the kernel writes them in extended attributes, and what they and the permission bits take from each
//! other (POSIX 1003.1e draft 17, as Linux has it).

use std::sync::Arc;

use crate::error::{FsError, Result};

/// The attribute of the ACL that is checked.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute of the ACL that a directory gives to what is made in it.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

/// What an entry speaks of (`acl_tag_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    UserObj,
    User,
    GroupObj,
    Group,
    Mask,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: Tag,
    /// Read, write and execute: 07.
    permissions: u16,
    /// Of a named user or group.
    id: u32,
}

/// An access control list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl(Vec<Entry>);

/// The version that attributes begin with.
const VERSION: u32 = 2;
/// Bytes of an entry: tag, permissions, id.
const ENTRY: usize = 8;
const NO_ID: u32 = u32::MAX;

const TAGS: [(u16, Tag); 6] = [
    (0x01, Tag::UserObj),
    (0x02, Tag::User),
    (0x04, Tag::GroupObj),
    (0x08, Tag::Group),
    (0x10, Tag::Mask),
    (0x20, Tag::Other),
];

fn entry(bytes: &[u8]) -> Option<Entry> {
    let (tag, rest) = bytes.split_first_chunk::<2>()?;
    let (permissions, rest) = rest.split_first_chunk::<2>()?;
    let (id, _) = rest.split_first_chunk::<4>()?;
    let number = u16::from_le_bytes(*tag);
    let (_, tag) = TAGS.into_iter().find(|(known, _)| *known == number)?;
    let permissions = u16::from_le_bytes(*permissions);
    (permissions <= 7).then_some(Entry { tag, permissions, id: u32::from_le_bytes(*id) })
}

impl Acl {
    /// Reads the value of an attribute.
    ///
    /// # Errors
    /// `InvalidArgument` when it is no ACL.
    pub fn parse(value: &[u8]) -> Result<Acl> {
        let parsed = || {
            let (version, rest) = value.split_first_chunk::<4>()?;
            let whole = u32::from_le_bytes(*version) == VERSION && rest.len().is_multiple_of(ENTRY);
            let entries = rest.chunks(ENTRY).map(entry).collect::<Option<Vec<_>>>().filter(|_| whole)?;
            Some(Acl(entries)).filter(Acl::is_valid)
        };
        parsed().ok_or(FsError::InvalidArgument("not a POSIX ACL"))
    }

    /// One entry each for owner, group and others; a mask where users or groups are named.
    fn is_valid(&self) -> bool {
        let count = |tag| self.0.iter().filter(|entry| entry.tag == tag).count();
        let named = count(Tag::User) + count(Tag::Group);
        let one_each = [Tag::UserObj, Tag::GroupObj, Tag::Other].into_iter().all(|tag| count(tag) == 1);
        one_each && count(Tag::Mask) <= 1 && (named == 0 || count(Tag::Mask) == 1)
    }

    /// The value of an attribute.
    pub fn encode(&self) -> Arc<[u8]> {
        let entries = self.0.iter().flat_map(|entry| {
            let number = TAGS.into_iter().find(|(_, tag)| *tag == entry.tag).map_or(0, |(number, _)| number);
            let id = if matches!(entry.tag, Tag::User | Tag::Group) { entry.id } else { NO_ID };
            let (tag, permissions) = (number.to_le_bytes(), entry.permissions.to_le_bytes());
            [tag, permissions].concat().into_iter().chain(id.to_le_bytes())
        });
        VERSION.to_le_bytes().into_iter().chain(entries).collect()
    }

    /// Does it say no more than permission bits can?
    pub fn is_minimal(&self) -> bool {
        self.0.iter().all(|entry| matches!(entry.tag, Tag::UserObj | Tag::GroupObj | Tag::Other))
    }

    fn of(&mut self, tag: Tag) -> Option<&mut u16> {
        self.0.iter_mut().find(|entry| entry.tag == tag).map(|entry| &mut entry.permissions)
    }

    /// The group bits speak of the mask, where there is one.
    fn group_class(&self) -> Tag {
        if self.0.iter().any(|entry| entry.tag == Tag::Mask) { Tag::Mask } else { Tag::GroupObj }
    }

    /// Which entry each three permission bits speak of, and how far they are shifted.
    fn classes(&self) -> [(Tag, u32); 3] {
        [(Tag::UserObj, 6), (self.group_class(), 3), (Tag::Other, 0)]
    }

    /// The permission bits (0777) that it means.
    pub fn mode(&mut self) -> u16 {
        let classes = self.classes();
        classes.into_iter().fold(0, |mode, (tag, shift)| mode | self.of(tag).map_or(0, |bits| *bits << shift))
    }

    /// Takes over the permission bits of `mode`, as `chmod` asks.
    pub fn chmod(&mut self, mode: u16) {
        for (tag, shift) in self.classes() {
            self.of(tag).into_iter().for_each(|bits| *bits = mode >> shift & 7);
        }
    }

    /// Becomes the ACL of a file that is made with `mode` where this is the default: what neither grants is granted by
    /// none. Returns the mode of the file.
    pub fn inherit(&mut self, mode: u16) -> u16 {
        for (tag, shift) in self.classes() {
            self.of(tag).into_iter().for_each(|bits| *bits &= mode >> shift & 7);
        }
        mode & !0o777 | self.mode()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            bytes.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    const NAMED: [(u16, u16, u32); 5] =
        [(1, 7, NO_ID), (2, 6, 1000), (4, 5, NO_ID), (0x10, 4, NO_ID), (0x20, 1, NO_ID)];

    #[test]
    fn what_is_no_acl_is_refused_and_what_is_one_comes_back() {
        let value = acl(&NAMED);
        assert_eq!(&*Acl::parse(&value).unwrap().encode(), &*value);
        for bad in [
            vec![],
            acl(&[]),
            value.get(..value.len() - 1).unwrap().to_vec(),
            acl(&[(1, 7, NO_ID), (4, 5, NO_ID)]),
            acl(&[(1, 7, NO_ID), (2, 6, 1000), (4, 5, NO_ID), (0x20, 1, NO_ID)]),
            acl(&[(1, 8, NO_ID), (4, 5, NO_ID), (0x20, 1, NO_ID)]),
            acl(&[(3, 7, NO_ID), (4, 5, NO_ID), (0x20, 1, NO_ID)]),
            [&1_u32.to_le_bytes()[..], value.get(4..).unwrap()].concat(),
        ] {
            assert!(Acl::parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn permission_bits_speak_of_the_mask_where_there_is_one() {
        let mut named = Acl::parse(&acl(&NAMED)).unwrap();
        assert_eq!((named.mode(), named.is_minimal()), (0o741, false));
        named.chmod(0o4620);
        assert_eq!(named.mode(), 0o620);
        assert_eq!(named.0.get(2).unwrap().permissions, 5, "the group's own stay");
        let mut minimal = Acl::parse(&acl(&[(1, 7, NO_ID), (4, 5, NO_ID), (0x20, 1, NO_ID)])).unwrap();
        assert_eq!((minimal.mode(), minimal.is_minimal()), (0o751, true));
        minimal.chmod(0o640);
        assert_eq!(minimal.mode(), 0o640);
    }

    #[test]
    fn what_is_made_gets_what_both_the_default_and_its_mode_grant() {
        let mut inherited = Acl::parse(&acl(&NAMED)).unwrap();
        assert_eq!(inherited.inherit(0o2666), 0o2640);
        assert_eq!(inherited.0.get(1).unwrap().permissions, 6, "who is named keeps what the mask limits");
    }
}
