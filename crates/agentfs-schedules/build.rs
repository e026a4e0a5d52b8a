//! Tells the core's sources that they are built for the schedule explorer.

fn main() {
    println!("cargo::rustc-cfg=agentfs_schedules");
}
