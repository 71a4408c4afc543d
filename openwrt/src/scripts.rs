//! What runs on the router when a package comes and goes: what every package of OpenWrt runs (its `default_postinst` runs
//! uci-defaults, enables services and starts them; in an image under construction it only enables), then the package's own lines.

/// Added lines, each a shell script without its first line.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Scripts {
    /// Before the files are there.
    pub preinst: Option<String>,
    /// Once they are.
    pub postinst: Option<String>,
    /// Before they go.
    pub prerm: Option<String>,
    /// Once they are gone.
    pub postrm: Option<String>,
}

/// Files without what OpenWrt's images bring are no router: nothing runs.
const ONLY_ON_A_ROUTER: &str =
    "[ -s \"${IPKG_INSTROOT}/lib/functions.sh\" ] || exit 0\n. \"${IPKG_INSTROOT}/lib/functions.sh\"\n";
const UNLESS_TOLD: &str = "[ \"${IPKG_NO_SCRIPT}\" = \"1\" ] && exit 0\n";

impl Scripts {
    /// The scripts of an `.ipk`, by the names they have in it.
    pub(crate) fn of_ipk(&self) -> Vec<(&'static str, String)> {
        let added = |text: &str| format!("#!/bin/sh\n{text}");
        let mut all = vec![
            ("postinst", format!("#!/bin/sh\n{UNLESS_TOLD}{ONLY_ON_A_ROUTER}default_postinst \"$0\" \"$@\"\n")),
            ("prerm", format!("#!/bin/sh\n{ONLY_ON_A_ROUTER}default_prerm \"$0\" \"$@\"\n")),
        ];
        // The default scripts of OpenWrt find and run these two by their names.
        all.extend(self.postinst.as_deref().map(|text| ("postinst-pkg", added(text))));
        all.extend(self.prerm.as_deref().map(|text| ("prerm-pkg", added(text))));
        all.extend(self.preinst.as_deref().map(|text| ("preinst", added(text))));
        all.extend(self.postrm.as_deref().map(|text| ("postrm", added(text))));
        all.sort_unstable_by_key(|(name, _)| *name);
        all
    }

    /// The scripts of an `.apk`, by the numbers of their fields, from 1 on: trigger, before and after installation, before and
    /// after removal, before and after an upgrade.
    pub(crate) fn of_apk(&self, package: &str) -> [Option<String>; 7] {
        const UPGRADE: &str = "export PKG_UPGRADE=1\n";
        let which = format!("export root=\"${{IPKG_INSTROOT}}\"\nexport pkgname=\"{package}\"\n");
        let added = |text: &Option<String>| text.clone().unwrap_or_default();
        let installed = format!(
            "{UNLESS_TOLD}{ONLY_ON_A_ROUTER}{which}add_group_and_user\ndefault_postinst\n{}",
            added(&self.postinst)
        );
        let removed = format!("{ONLY_ON_A_ROUTER}{which}default_prerm\n{}", added(&self.prerm));
        [
            None,
            self.preinst.as_deref().map(|text| format!("#!/bin/sh\n{text}")),
            Some(format!("#!/bin/sh\n{installed}")),
            Some(format!("#!/bin/sh\n{removed}")),
            self.postrm.as_deref().map(|text| format!("#!/bin/sh\n{text}")),
            self.preinst.as_deref().map(|text| format!("#!/bin/sh\n{UPGRADE}{text}")),
            Some(format!("#!/bin/sh\n{UPGRADE}{installed}")),
        ]
    }
}
