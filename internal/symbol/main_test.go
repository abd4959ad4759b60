// SPDX-License-Identifier: Apache-2.0

package symbol

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// tools are what the tests build programs with, and their packages of Debian.
var tools = map[string]string{"gcc": "gcc", "objcopy": "binutils", "xz": "xz-utils"}

func TestMain(m *testing.M) {
	if err := install(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// install fetches the tools that are missing.
func install() error {
	var missing []string
	for tool, name := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if os.Geteuid() != 0 {
		return errors.New("tools are missing that only root can install: run this test as root")
	}
	for _, args := range [][]string{
		{"update", "-qq"},
		append([]string{"install", "-qq", "-y", "--no-install-recommends", "libc6-dev"}, missing...),
	} {
		cmd := exec.Command("apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w: %s", args[0], err, out)
		}
	}
	return nil
}
