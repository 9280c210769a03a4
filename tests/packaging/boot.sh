#!/usr/bin/env bash
# Starts a systemd in a copy-on-write view of this machine, which runs one command and exits.
# Arguments: a directory, mounted in the view as /mnt; the command. The command's output goes to
# test.log there, and a file "passed" is created if it succeeded.
#
# To be run by `unshare --mount --net`: mounts and ports disappear with those namespaces.
set -euo pipefail
shared=$1 command=$2

view=$(mktemp -d)
mount -t tmpfs tmpfs "$view"
mkdir "$view/upper" "$view/work" "$view/cgroup" "$view/root"
mount -t overlay overlay "$view/root" -o lowerdir=/,upperdir="$view/upper",workdir="$view/work"
mount -t cgroup2 none "$view/cgroup"
group=$view/cgroup/xks-proxy-test.$$
mkdir "$group"
ip link set lo up
# The view has an init system, and packages should start and stop services as on a server, which
# container images forbid (invoke-rc.d(8)).
rm -f "$view/root/usr/sbin/policy-rc.d"

units=$view/root/etc/systemd/system
mkdir -p "$units"
cat >"$units/test.service" <<END
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=$command
ExecStartPost=/usr/bin/touch /mnt/passed
ExecStopPost=/bin/sh -c "exec systemctl --force --force poweroff >/dev/null 2>&1"
StandardOutput=append:/mnt/test.log
StandardError=append:/mnt/test.log
END
cat >"$units/test.target" <<'END'
[Unit]
Requires=test.service
After=test.service
END

# In its own control group and namespaces, systemd is isolated like a container, and does not touch
# the machine's clock, name or kernel parameters.
(
    echo "$BASHPID" >"$group/cgroup.procs"
    exec unshare --cgroup --uts --ipc --mount --pid --fork --kill-child \
        bash -euo pipefail -s "$view/root" "$shared" <<'END'
        root=$1 shared=$2
        mount -t proc proc "$root/proc"
        mount -t sysfs sysfs "$root/sys"
        mount -t cgroup2 none "$root/sys/fs/cgroup"
        mount --rbind /dev "$root/dev"
        mount -t tmpfs tmpfs "$root/run"
        mount --bind "$shared" "$root/mnt"
        exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
            chroot "$root" /lib/systemd/systemd --system --unit=test.target </dev/null
END
) || true
rmdir "$group" || true
