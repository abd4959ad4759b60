// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"strings"
	"testing"

	"github.com/prometheus/procfs"
)

const (
	id    = "4c01db0b339c0dd2f9a4f0b6d3e9f4f5a3ad7a2f9b3a8d1d0e7c6b5a49382716"
	inner = "aa01db0b339c0dd2f9a4f0b6d3e9f4f5a3ad7a2f9b3a8d1d0e7c6b5a49382716"
)

func TestParsePath(t *testing.T) {
	in := func(runtime string) Container { return Container{Runtime: runtime, ID: id} }
	pod := "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2b6f_1.slice/"
	for path, want := range map[string]struct {
		unit      string
		container Container
	}{
		"":              {},
		"/":             {},
		"/../..":        {},
		"/../../..":     {},
		"/user.slice":   {},
		"/system.slice": {},

		"/system.slice/payment.service":                                       {unit: "payment.service"},
		"/system.slice/payment.service/worker":                                {unit: "payment.service"},
		"/system.slice/system-getty.slice/g@1.service":                        {unit: "g@1.service"},
		`/system.slice/a\x2db:c_d.1@\x40x.service`:                            {unit: `a\x2db:c_d.1@\x40x.service`},
		"/system.slice/_cgroup.service":                                       {unit: "cgroup.service"},
		"/init.scope":                                                         {unit: "init.scope"},
		"/user.slice/user-1000.slice/session-3.scope":                         {unit: "session-3.scope"},
		"/user.slice/user-1000.slice/user@1000.service":                       {unit: "user@1000.service"},
		"/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service": {unit: "foo.service"},
		"/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope": {unit: "app-x.scope"},
		"/user.slice/user-1000.slice/user@1000.service/init.scope":            {unit: "init.scope"},
		"/system.slice/x.service/not a unit.service":                          {unit: "x.service"},
		"/system.slice/.service":                                              {},
		"/system.slice/x.mount":                                               {},
		"/system.slice/x.service.d":                                           {},
		"/system.slice/x\x1b[31m.service":                                     {},
		"/" + strings.Repeat("a", 250) + ".scope":                             {},

		"/docker/" + id:                                                 {container: in("docker")},
		"/docker/" + id + "/sub/group":                                  {container: in("docker")},
		"/system.slice/docker-" + id + ".scope":                         {container: in("docker")},
		"/../docker-" + id + ".scope":                                   {container: in("docker")},
		"/system.slice/docker.service/docker/" + id:                     {container: in("docker")},
		"/custom/" + id:                                                 {container: in("")},
		"/docker/" + inner + "/docker/" + id:                            {container: in("docker")},
		"/docker/" + inner + pod + "cri-containerd-" + id + ".scope":    {container: in("containerd")},
		"/system.slice/docker-" + id + ".scope/system.slice/in.service": {unit: "in.service", container: in("docker")},
		"/docker/" + id + "/init.scope":                                 {unit: "init.scope", container: in("docker")},
		"/docker/buildkit/4x":                                           {},

		pod + "cri-containerd-" + id + ".scope": {container: in("containerd")},
		pod + "docker-" + id + ".scope":         {container: in("docker")},
		pod + "crio-" + id + ".scope":           {container: in("cri-o")},
		pod + "crio-conmon-" + id + ".scope":    {unit: "crio-conmon-" + id + ".scope"},
		pod:                                     {},
		"/kubepods/burstable/pod2b6f0c5e-1111-2222-3333-444455556666/" + id:                            {container: in("")},
		"/kubepods/besteffort/pod2b6f0c5e-1111-2222-3333-444455556666/crio-" + id:                      {container: in("cri-o")},
		"/system.slice/containerd.service/kubepods-burstable-pod2b6f_1.slice:cri-containerd:" + id:     {container: in("containerd")},
		"/system.slice/containerd.service/kubepods-burstable-pod2b6f_1.slice:cri-containerd:" + id[1:]: {unit: "containerd.service"},
		"/system.slice:nerdctl:" + id: {container: in("containerd")},

		"/machine.slice/libpod-" + id + ".scope":                                               {container: in("podman")},
		"/machine.slice/libpod-" + id + ".scope/container":                                     {container: in("podman")},
		"/libpod_parent/libpod-" + id:                                                          {container: in("podman")},
		"/libpod_parent/" + id:                                                                 {container: in("podman")},
		"/machine.slice/libpod-conmon-" + id + ".scope":                                        {unit: "libpod-conmon-" + id + ".scope"},
		"/user.slice/user-1.slice/user@1.service/user.slice/libpod-" + id + ".scope/container": {container: in("podman")},
		"/system.slice/web.service/libpod-payload-" + id:                                       {unit: "web.service", container: in("podman")},
		"/system.slice/web.service/libpod-payload-" + id + "/x.service":                        {unit: "x.service", container: in("podman")},

		"/docker/" + strings.ToUpper(id):         {},
		"/docker/" + id[1:]:                      {},
		"/docker/" + id + "0":                    {},
		"/docker/" + "../" + id[:61]:             {},
		"/docker/" + id[:63] + "/":               {},
		"/system.slice/docker-" + id + ".scopes": {},
		"//" + id + "//":                         {container: in("")},
	} {
		unit, container := parsePath(path)
		if unit != want.unit || container != want.container {
			t.Errorf("parsePath(%q) = %q, %+v; want %q, %+v", path, unit, container, want.unit, want.container)
		}
	}
}

func TestMembership(t *testing.T) {
	for _, c := range []struct {
		name     string
		groups   []procfs.Cgroup
		unit, id string
	}{
		{"v2", []procfs.Cgroup{{Path: "/system.slice/a.service"}}, "a.service", ""},
		{"v1", []procfs.Cgroup{
			{HierarchyID: 5, Controllers: []string{"cpu", "cpuacct"}, Path: "/system.slice/wrong.service"},
			{HierarchyID: 1, Controllers: []string{"name=systemd"}, Path: "/system.slice/a.service"},
		}, "a.service", ""},
		{"hybrid", []procfs.Cgroup{
			{HierarchyID: 1, Controllers: []string{"name=systemd"}, Path: "/system.slice/a.service/sub"},
			{HierarchyID: 0, Path: "/system.slice/a.service"},
		}, "a.service", ""},
		{"hybrid, container in v1 only", []procfs.Cgroup{
			{HierarchyID: 0, Path: "/system.slice/containerd.service"},
			{HierarchyID: 3, Controllers: []string{"memory"}, Path: "/docker/" + id},
			{HierarchyID: 1, Controllers: []string{"name=systemd"}, Path: "/docker/" + id},
		}, "", id},
		{"v1, others are at the root", []procfs.Cgroup{
			{HierarchyID: 2, Controllers: []string{"rdma"}, Path: "/"},
			{HierarchyID: 1, Controllers: []string{"name=systemd"}, Path: "/user.slice/user-0.slice/session-3.scope"},
			{HierarchyID: 0, Path: "/"},
		}, "session-3.scope", ""},
		{"none", nil, "", ""},
	} {
		unit, container := membership(c.groups)
		if unit != c.unit || container.ID != c.id {
			t.Errorf("%s: %q, %q; want %q, %q", c.name, unit, container.ID, c.unit, c.id)
		}
	}
}
