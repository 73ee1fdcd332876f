#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# The lab runs this as root in dom0, in the shared folder: installs the wheel as an administrator would, and does the main
# job; then the Debian package, for everything that has to do with domains.
set -e
uname -r > kernel-release
cat /sys/hypervisor/type > hypervisor
python3 -m venv --without-pip /opt/domward
pip=$(echo wheels/pip-*.whl)
/opt/domward/bin/python "$pip/pip" install --quiet --no-index --find-links wheels domward
cp --sparse=always guest.img /var/tmp/guest.img
export PATH=/opt/domward/bin:$PATH
domward doctor --json > doctor.json 2> doctor.err || echo "$?" > doctor.status
domward inspect /var/tmp/guest.img --json > inspect.json
domward run /var/tmp/guest.img --output-dir /var/tmp/out --json > run.json
mkdir -p out
cp /var/tmp/out/* out/
# Nothing stays: no helper, no mount, no process of ours.
ps -eo uid=,pid=,comm= | awk '$1 >= 1900000000' > leftovers
# Control groups with the controllers that the host of the tests may not have in the unified tree.
python3 groups_in_dom0.py groups.json /var/tmp/guest.img > groups.out 2>&1 || echo "status $?" >> groups.out
# Domains with the real xl; ps above saw what the main job left, each check looks for itself.
rm -r /var/tmp/guest.img /var/tmp/out /var/tmp/groups /opt/domward
export PATH=${PATH#/opt/domward/bin:}
hash -r
dpkg --install domward_*.deb > dpkg.out 2>&1
dpkg --verify domward | sed '/ \/usr\/share\//d' > changed # this dom0 goes without the documents of all packages
dpkg-query --show --showformat='${db:Status-Status} ${Version}' domward > package
cp --sparse=always tiny.img menu.img /var/tmp/
# A fault of this script's is for its own tests alone. Once its Python died of a segmentation fault, in an emulator that is
# not known for being right about everything: then it goes on with the next check.
for checks in $(cat jobs); do
  for _ in 1 2 3; do
    status=0
    python3 -X faulthandler "${checks}_in_dom0.py" "$checks.json" >> checks.out 2>&1 || status=$?
    echo "$checks: status $status" >> checks.out
    [ "$status" = 139 ] || break
    xl list | awk 'NR > 2 { print $1 }' | xargs -r -n 1 xl destroy
  done
done
dpkg --purge domward >> dpkg.out 2>&1
find /etc /usr /run /var -xdev -name '*domward*' > purged
