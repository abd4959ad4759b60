// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"errors"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestProcessOf(t *testing.T) {
	s := script{t}
	a := s.start(s.netns(), "with ) blank")
	s.num(a.Socket(unix.AF_INET))
	limit := unix.Rlimit{Cur: 777, Max: 888}
	s.no(unix.Prlimit(a.PID(), unix.RLIMIT_NOFILE, &limit, nil))
	got, err := ProcessOf(a.PID())
	s.no(err)
	cmdline, err := os.ReadFile("/proc/" + strconv.Itoa(a.PID()) + "/cmdline")
	s.no(err)
	entries, err := os.ReadDir("/proc/" + strconv.Itoa(a.PID()) + "/fd")
	s.no(err)
	want := &Process{
		PID: a.PID(), PPID: os.Getpid(), Start: time.Duration(a.StartTime()) * 10 * time.Millisecond,
		Comm: "with ) blank", Cmdline: strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00"),
		FDs: len(entries), FDLimit: 777, Unit: got.Unit, Container: got.Container, // of whoever runs the tests
	}
	if root, err := user.LookupId("0"); err == nil {
		want.User = root.Username
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v, want\n%+v", got, want)
	}
	var now unix.Timespec
	s.no(unix.ClockGettime(unix.CLOCK_BOOTTIME, &now))
	if age := time.Duration(now.Nano()) - got.Start; age < 0 || age > patience {
		t.Errorf("started %v ago", age)
	}

	s.no(a.Kill())
	if _, err := ProcessOf(a.PID()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of a process that has ended: %v", err)
	}
	if _, err := ProcessOf(-1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of none: %v", err)
	}
}

// Without privileges one's own processes are read, all others are counted.
func TestHoldersUnprivileged(t *testing.T) {
	const pidEnv, inodeEnv = "AFTERFIN_OWNER_PID", "AFTERFIN_OWNER_INODE"
	s := script{t}
	if !inChild(t) {
		a := s.start(s.netns(), "root's")
		fd := s.num(a.Socket(unix.AF_INET))
		runInChild(t, asNobody(), pidEnv+"="+strconv.Itoa(a.PID()), inodeEnv+"="+strconv.FormatUint(s.inode(a, fd), 10))
		return
	}
	pid, err := strconv.Atoi(os.Getenv(pidEnv))
	s.no(err)
	theirs, err := strconv.ParseUint(os.Getenv(inodeEnv), 10, 64)
	s.no(err)
	fd, own := s.socket(unix.AF_INET)
	holder := child(holdChild, nil)
	holder.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "socket")}
	start(t, holder)

	scan, err := Find(set(own, theirs), nil)
	s.no(err)
	if len(scan.Holders) != 1 || scan.Unreadable == 0 {
		t.Errorf("%+v", scan)
	}
	s.expect(scan.Holders[own], fdOf{os.Getpid(), fd}, fdOf{holder.Process.Pid, 3})
	if h := scan.Holders[own][0]; h.Process.UID != nobody || h.Process.FDLimit == 0 {
		t.Errorf("%+v", h.Process)
	}

	scan, err = among(t, os.Getpid(), pid, holder.Process.Pid).find(set(own, theirs), set(theirs))
	if s.no(err); scan.Unreadable != 1 || len(scan.Holders) != 1 {
		t.Errorf("%+v", scan)
	}
	// Whom one may not read one may still name.
	p, err := ProcessOf(pid)
	if s.no(err); p.Comm != "root's" || p.UID != 0 || p.FDs != 0 || p.FDLimit == 0 {
		t.Errorf("%+v", p)
	}
	// Kernel threads are no loss.
	if comm, err := os.ReadFile("/proc/2/comm"); err == nil && string(comm) == "kthreadd\n" {
		scan, err = among(t, 2).find(set(own), nil)
		if s.no(err); scan.Unreadable != 0 {
			t.Errorf("%d kernel threads are unreadable", scan.Unreadable)
		}
	}
}

// tree writes files below a new folder.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const (
	stat   = "42 (sh) S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1000 10 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
	status = "Name:\tsh\nPid:\t42\nPPid:\t7\nUid:\t4000001\t4000002\t4000003\t4000004\n"
	limits = "Limit                     Soft Limit           Hard Limit           Units     \nMax open files            unlimited            unlimited            files     \n"
)

func TestDescribe(t *testing.T) {
	proc := tree(t, map[string]string{
		"42/stat": stat, "42/status": status, "42/limits": limits, "42/cmdline": "sh\x00-c\x00\x00a b\x00",
		"42/cgroup": "0::/system.slice/docker-" + id + ".scope\n", "42/fd/x": "",
		"43/stat": strings.Replace(stat, "(sh) S", "(sh) Z", 1), "43/status": status,
		"44/stat": "44 (", "45/stat": stat,
	})
	root := tree(t, map[string]string{"var/lib/docker/containers/" + id + "/config.v2.json": `{"Name":"/web"}`})
	f := newFinder(proc, root)
	want := &Process{
		PID: 42, PPID: 7, Start: 123450 * time.Millisecond, Comm: "sh", Cmdline: []string{"sh", "-c", "", "a b"},
		UID: 4000002, FDs: 1, FDLimit: 1<<64 - 1, Container: Container{Runtime: "docker", ID: id, Name: "web"},
	}
	got, err := f.processOf(42)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v, %v, want\n%+v", got, err, want)
	}
	for _, pid := range []int{43, 44, 45, 46} {
		if got, err := f.processOf(pid); err == nil {
			t.Errorf("process %d: %+v", pid, got)
		}
	}
	if err := os.RemoveAll(filepath.Join(proc, "42/limits")); err != nil {
		t.Fatal(err)
	}
	if got, err := f.processOf(42); err != nil || got.FDLimit != 0 {
		t.Errorf("without limits: %+v, %v", got, err)
	}

	// The number goes to another process after the first was opened.
	p, err := f.open(45)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if err := os.RemoveAll(p.path); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(proc, "42"), p.path); err != nil {
		t.Fatal(err)
	}
	if got, err := f.describe(p, 0); !gone(err) {
		t.Errorf("of a number that was reused: %+v, %v", got, err)
	}
	if got, err := f.processOf(45); err != nil || got.Comm != "sh" {
		t.Errorf("of the new one: %+v, %v", got, err)
	}
}
