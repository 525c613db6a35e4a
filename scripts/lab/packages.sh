# SPDX-License-Identifier: GPL-2.0
#
# What makes and judges Debian packages, in the root. To be sourced after common.sh and root.sh.

package_tools=(debhelper dh-dkms lintian)

lab_packages() {
	stage package-tools "$(hash_of "$RVMM_LAB/stamps/root" <(echo "${package_tools[@]}"))" \
		"installing ${package_tools[*]} in the root (1 min)" install_in_root "${package_tools[@]}"
}
