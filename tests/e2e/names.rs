//! Names inside the mesh.

use crate::lab::{Lab, here, secs, until};
use crate::router::{PEERS, Router, join, joined, text};
use crate::traffic::reachable;

pub(crate) const ASK: &str = include_str!("names.py");

#[test]
fn names_of_the_mesh_are_answered_inside_it_and_follow_the_config() {
    let Some(mut lab) = Lab::open("names_of_the_mesh_are_answered_inside_it_and_follow_the_config", &["python3"])
    else {
        return;
    };
    let [mut r1, mut r2] = ["r1", "r2"].map(|name| Router::new(&mut lab, name));
    join(&mut lab, &mut r1, &mut r2, PEERS);
    r1.options.tables.push("[names]\nlisten = [\"127.0.0.1:5353\"]\n".to_owned());
    r1.start();
    r2.start();
    joined(&r1, &r2);
    reachable(&r2.host, &r1.address, secs(20));

    let ask = |names: &[&str]| r2.host.run(&[&["python3", "-c", ASK, &r1.address, "53"], names].concat());
    let said = until("answers", secs(15), || ask(&["r1.mesh", "R2.mesh", "www.r2.mesh", "phone.mesh", "example.org"]));
    let expected = format!(
        "r1.mesh 0 {0}\nR2.mesh 0 {1}\nwww.r2.mesh 0 {1}\nphone.mesh 3 \nexample.org 5",
        r1.address, r2.address
    );
    assert_eq!(said.trim_end(), expected);

    // A leaf has a name at once.
    let config = r1.config_file();
    let leaf = ["leaf", "add", "phone", "--endpoint", "192.0.2.1", "--json", "--config", text(&config)];
    let added: serde_json::Value =
        serde_json::from_str(&here(&[&[text(&r1.waybill)], &leaf[..]].concat())).expect("JSON");
    let address = added["address"].as_str().expect("an address");
    until("the phone's name", secs(10), || match ask(&["phone.mesh"])?.trim_end() {
        said if said == format!("phone.mesh 0 {address}") => Ok(()),
        said => Err(said.to_owned()),
    });
    let listed = here(&[text(&r1.waybill), "names", "--config", text(&config)]);
    assert!(listed.contains("phone.mesh") && listed.contains(address) && listed.contains("this router"), "{listed}");
    lab.figures("AAAA by UDP and TCP for a router, its neighbour and a leaf; NXDOMAIN and REFUSED for the rest");
}
