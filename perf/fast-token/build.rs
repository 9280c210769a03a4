//! Links the module so that it stays in memory after the application unloads it.

fn main() {
    // AWS-LC frees a thread's state when the thread ends (pthread_key_create), which may be after
    // the application has unloaded the module: its function has to be there still.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo::rerun-if-changed=build.rs");
}
