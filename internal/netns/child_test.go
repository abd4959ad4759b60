// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// childEnv names the test that a child process runs, or says holdChild.
const (
	childEnv  = "AFTERFIN_NETNS_CHILD"
	holdChild = "hold"
)

// TestMain makes of this binary the process that keeps a netns alive: it reads
// its standard input to the end.
func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == holdChild {
		os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(role string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...) // may be run by another user, who cannot walk its path
	cmd.Env = append(os.Environ(), childEnv+"="+role)
	return cmd
}

// hold starts a process in a fresh netns and says which netns that is by the
// inode of the file, not by the text of the link. end makes the process exit
// but not vanish: it is waited for after the test.
func hold(t *testing.T) (ns NS, end func()) {
	t.Helper()
	cmd := child(holdChild)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = func() {
		stdin.Close()
		if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	path := "/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/net"
	return NS{statInode(t, path), path}, end
}

func statInode(t *testing.T, path string) uint32 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(info.Sys().(*syscall.Stat_t).Ino)
}

func inChild(t *testing.T) bool { return os.Getenv(childEnv) == t.Name() }

// runInChild runs the calling test again, in a process with these attributes.
func runInChild(t *testing.T, attr *syscall.SysProcAttr, files ...*os.File) {
	t.Helper()
	cmd := child(t.Name(), "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.SysProcAttr, cmd.ExtraFiles = attr, files
	output, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(output), "--- PASS: "+t.Name()) {
		t.Errorf("child: %v\n%s", err, output)
	}
}
