fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    tonic_prost_build::configure()
        .bytes(".greptimecluster.v1")
        .compile_protos(&["proto/greptimecluster/v1/cluster.proto"], &["proto"])?;
    Ok(())
}
