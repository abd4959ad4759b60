// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"errors"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// ClockTick is the unit of times in /proc, the same on all architectures of Linux
// that Go runs on (USER_HZ).
const ClockTick = time.Second / 100

// kernelThread is PF_KTHREAD of linux/sched.h, in field 9 of /proc/PID/stat.
const kernelThread = 0x00200000

// process is an open /proc/PID. The kernel ties it to the process and not to the
// number: it leads nowhere once the process is reaped. While it leads somewhere
// the number was not given away, so what was read by number is of this process.
type process struct {
	pid  int
	path string
	dir  int
}

// open opens /proc/PID; the caller closes it.
func (f *finder) open(pid int) (process, error) {
	path := f.proc + "/" + strconv.Itoa(pid)
	dir, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return process{pid, path, dir}, err
}

func (p process) close() { unix.Close(p.dir) }

// there gives an error that is gone if the process was reaped.
func (p process) there() error {
	var stat unix.Stat_t
	return unix.Fstatat(p.dir, "stat", &stat, 0)
}

// descriptors opens the folder of descriptors and lists it. The caller closes it.
func (p process) descriptors() (*os.File, []string, error) {
	fd, err := unix.Openat(p.dir, "fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	dir := os.NewFile(uintptr(fd), p.path+"/fd")
	names, err := dir.Readdirnames(-1)
	if err != nil {
		dir.Close()
		return nil, nil, err
	}
	return dir, names, nil
}

// files gives the library's view of a process, which goes by number.
func (f *finder) files(p process) (procfs.Proc, error) {
	tree, err := procfs.NewFS(f.proc)
	if err != nil {
		return procfs.Proc{}, err
	}
	return tree.Proc(p.pid)
}

// isKernelThread tells whether it is one: those have no descriptors, but only root
// may see that.
func (f *finder) isKernelThread(p process) bool {
	files, err := f.files(p)
	if err != nil {
		return false
	}
	stat, err := files.Stat()
	return err == nil && stat.Flags&kernelThread != 0
}

func (f *finder) processOf(pid int) (*Process, error) {
	p, err := f.open(pid)
	if err != nil {
		return nil, err
	}
	defer p.close()
	dir, names, err := p.descriptors()
	switch {
	case err == nil:
		dir.Close()
	case !denied(err):
		return nil, err
	}
	return f.describe(p, len(names))
}

// describe reads all about a process. The error is gone if it has ended.
func (f *finder) describe(p process, fds int) (*Process, error) {
	files, err := f.files(p)
	if err != nil {
		return nil, err
	}
	stat, err := files.Stat()
	if err != nil {
		return nil, err
	}
	if stat.State == "Z" || stat.State == "X" {
		return nil, unix.ESRCH // it has no descriptors any more
	}
	status, err := files.NewStatus()
	if err != nil {
		return nil, err
	}
	d := &Process{
		PID: p.pid, PPID: stat.PPID, Start: time.Duration(stat.Starttime) * ClockTick, Comm: stat.Comm,
		UID: uint32(status.UIDs[1]), FDs: fds,
	}
	d.User = f.userName(d.UID)
	// The rest may be missing.
	if limits, err := files.Limits(); err == nil {
		d.FDLimit = limits.OpenFiles
	}
	if cmdline, err := files.CmdLine(); err == nil {
		d.Cmdline = cmdline
	}
	if groups, err := files.Cgroups(); err == nil {
		d.Unit, d.Container = membership(groups)
		d.Container = f.named(d.Container)
	}
	return d, p.there()
}

func (f *finder) userName(uid uint32) string {
	name, known := f.users[uid]
	if !known {
		if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
			name = u.Username
		}
		f.users[uid] = name
	}
	return name
}

// gone tells that a process, or a descriptor of it, has ended since it was seen.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// denied is for EACCES and EPERM.
func denied(err error) bool { return errors.Is(err, fs.ErrPermission) }
