//! `check STORE`: what the core finds in a store that nobody serves, in words or as JSON.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use agentfs_core::{Config, Device, Finding, HostFs, Repaired, Report, check_store, repair_store};
use anyhow::{Context, Result};
use serde_json::json;

use crate::config::boot_id;

/// The exit code of a store that is not sound.
const UNSOUND: u8 = 1;
/// The exit code when nobody can say: the store cannot be opened or read.
pub(crate) const UNKNOWN: u8 = 2;

/// Checks a store, and mends it when asked to.
///
/// # Errors
/// When it cannot be opened or read; what is wrong with it is no error but told.
pub(crate) fn run(store: &Path, repair: bool, json: bool) -> Result<ExitCode> {
    let config = Config { boot: boot_id(), ..Config::default() };
    let unreadable = || format!("the store {} cannot be read", store.display());
    let found = check_store(Arc::new(HostFs::inspect(store)?), config.clone()).with_context(unreadable)?;
    let repaired = if repair && !found.findings.is_empty() {
        // What is written is of the present format: the store says so from here on.
        let device: Arc<dyn Device> = Arc::new(HostFs::open(store, false)?);
        repair_store(&device, &config)
            .with_context(|| format!("the store {} cannot be mended", store.display()))?
    } else {
        Repaired { report: found, mended: Vec::new() }
    };
    let mut out = std::io::stdout().lock();
    let told =
        if json { writeln!(out, "{}", as_json(&repaired)) } else { in_words(&repaired, repair, &mut out) };
    told.context("cannot write the result")?;
    Ok(if repaired.report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(UNSOUND) })
}

fn in_words(repaired: &Repaired, repair: bool, out: &mut impl Write) -> std::io::Result<()> {
    let Repaired { report, mended } = repaired;
    for what in mended {
        writeln!(out, "mended: {what}")?;
    }
    for finding in &report.findings {
        writeln!(out, "{}: {finding}", kind(finding))?;
    }
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    writeln!(out, "{}", summary(report))?;
    if !repair && report.findings.iter().any(Finding::is_mendable) {
        writeln!(out, "some of it can be mended: run again with --repair")?;
    }
    Ok(())
}

fn summary(report: &Report) -> String {
    let seen = format!(
        "{} branches, {} snapshots, {} inodes, {} files of content, {} bytes compared with their checksums",
        report.branches, report.snapshots, report.inodes, report.files, report.verified
    );
    match report.findings.len() {
        0 => format!("sound: {seen}"),
        1 => format!("1 fault: {seen}"),
        count => format!("{count} faults: {seen}"),
    }
}

/// What a finding is about, as one word.
fn kind(finding: &Finding) -> &'static str {
    match finding {
        Finding::Log(_) => "log",
        Finding::Tree(..) => "tree",
        Finding::Content(..) => "content",
        Finding::Account(_) => "account",
    }
}

fn as_json(repaired: &Repaired) -> serde_json::Value {
    let report = &repaired.report;
    let finding = |finding: &Finding| json!({ "kind": kind(finding), "what": finding.to_string() });
    json!({
        "sound": report.findings.is_empty(),
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "mended": repaired.mended,
        "notes": report.notes,
        "branches": report.branches,
        "snapshots": report.snapshots,
        "inodes": report.inodes,
        "files": report.files,
        "verified_bytes": report.verified,
    })
}
