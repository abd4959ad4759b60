// SPDX-License-Identifier: Apache-2.0

// Package debian installs what tests take and this machine lacks.
package debian

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// Install installs packages, from fresh lists. It takes root.
func Install(packages ...string) error {
	return Apt("install", append(packages, "-y")...)
}

// Apt runs an apt-get command on fresh lists. It takes root.
func Apt(command string, args ...string) error {
	if os.Geteuid() != 0 {
		return errors.New("programs are missing that only root can install: run this test as root")
	}
	if err := Run("apt-get", "-o", "APT::Update::Error-Mode=any", "update", "-qq"); err != nil {
		return err
	}
	return Run("apt-get", append([]string{command, "-qq", "--no-install-recommends"}, args...)...)
}

// Run runs a program that asks nothing; what it wrote is in the error.
func Run(program string, args ...string) error {
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, args[0], err, out)
	}
	return nil
}
