// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"afterfin/internal/debian"
)

// What TestMain has made ready.
var (
	built     string            // a folder: afterfin and the programs that leak
	installed map[string]string // where programs of Debian are, by name
	serverEnv []string          // what servers run in
)

func TestMain(m *testing.M) {
	code, err := prepareAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func prepareAndRun(m *testing.M) (code int, err error) {
	if installed, serverEnv, err = fromDebian(); err != nil {
		return 1, err
	}
	built, err = os.MkdirTemp("", "afterfin-programs-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(built)
	for name, source := range map[string]string{"afterfin": "afterfin/cmd/afterfin", "leaky-go": "./testdata/leaky.go"} {
		if err := goBuild(name, source); err != nil {
			return 1, err
		}
	}
	if err := debian.Run(installed["gcc"], "-O2", "-Wall", "-Werror", "-o", filepath.Join(built, "leaky-c"), "testdata/leaky.c"); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

func goBuild(name, source string, flags ...string) error {
	err := runGo("", append(append([]string{"build", "-o", filepath.Join(built, name)}, flags...), source)...)
	if err != nil {
		return fmt.Errorf("build %s: %w", source, err)
	}
	return nil
}

// runGo runs go in a folder, or where the test is. It works as the user who called sudo, if it was sudo: Go's caches are that user's. That user
// may write into built.
func runGo(dir string, args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if u, err := user.LookupId(os.Getenv("SUDO_UID")); err == nil {
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(built, uid, gid); err != nil {
			return err
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		cmd.Env = append(cmd.Env, "HOME="+u.HomeDir)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
