//! The one system call that the standard library and safe rustix cannot make: the control ioctl.
#![allow(unsafe_code)]

use std::os::fd::AsFd;

use agentfs_proto::Frame;
use agentfs_proto::ioctl::CONTROL_IOCTL;
use rustix::ioctl::{Updater, ioctl};

/// Sends the frame, and replaces it by the answer.
pub(crate) fn exchange(control: impl AsFd, frame: &mut Frame) -> rustix::io::Result<()> {
    // SAFETY: the number says that 4096 bytes are read and written, which is what a `Frame` is, and every
    // content of them is a valid one. What is no control file answers ENOTTY: no driver has this number.
    unsafe { ioctl(control, Updater::<CONTROL_IOCTL, Frame>::new(frame)) }
}
