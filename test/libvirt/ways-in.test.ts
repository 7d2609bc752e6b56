// How one gets in: polkit, what is not spoken, and the real ssh to a real ssh server.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { execa } from 'execa'
import { describe, expect, test } from 'vitest'
import { connect } from '../../src/libvirt/index.ts'
import { isRoot, privateLibvirtd } from '../support/libvirtd.ts'

describe.runIf(isRoot)('how one gets in', () => {
  const POLKIT = 'unix_sock_rw_perms = "0777"\nauth_unix_rw = "polkit"\n'

  test('polkit lets a user in, or does not', async () => {
    {
      await using daemon = await privateLibvirtd({ conf: POLKIT, polkit: 'yes' })
      await using c = await connect(daemon.uriAsNobody)
      expect(await c.host.uri()).toBe('qemu:///system')
    }
    await using daemon = await privateLibvirtd({ conf: POLKIT, polkit: 'no' })
    await expect(connect(daemon.uriAsNobody)).rejects.toMatchObject({
      name: 'ConnectionError',
      reason: 'authentication',
      message: expect.stringContaining('polkit'),
    })
  })

  test('SASL is not spoken', async () => {
    await using daemon = await privateLibvirtd({ conf: 'unix_sock_rw_perms = "0777"\nauth_unix_rw = "sasl"\n' })
    await expect(connect(daemon.uriAsNobody)).rejects.toMatchObject({
      name: 'ConnectionError',
      reason: 'authentication',
      message: expect.stringContaining('SASL'),
    })
  })

  test('ssh: by virt-ssh-helper, by netcat, and not at all', async () => {
    await using daemon = await privateLibvirtd()
    const key = join(daemon.dir, 'key')
    await execa('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', key])
    const port = await daemon.sshd(readFileSync(`${key}.pub`, 'utf8'))
    const command = join(daemon.dir, 'ssh')
    // the real ssh, which shall not look at the user's own files or write to them
    const options = '-F none -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR'
    writeFileSync(command, `#!/bin/sh\nexec ssh ${options} "$@"\n`, { mode: 0o755 })
    const at = (more: string) =>
      `qemu+ssh://root@127.0.0.1:${port}/system?command=${command}&keyfile=${key}&no_verify=1${more}`
    for (const more of ['', '&proxy=native', `&socket=${daemon.socket}`, '&netcat=/usr/bin/nc']) {
      await using c = await connect(at(more))
      expect(await c.host.uri(), more).toBe('qemu:///system')
      expect((await c.networks.list()).length, more).toBe(0)
    }
    await expect(connect(at('&socket=/none'))).rejects.toMatchObject({
      reason: 'lost',
      message: expect.stringMatching(/nc|exit/),
    })
    await expect(connect(at('').replace(`keyfile=${key}`, 'keyfile=/none'))).rejects.toMatchObject({
      name: 'ConnectionError',
    })
    await expect(connect('qemu+ssh://nobody/system?command=/no/such/ssh')).rejects.toMatchObject({
      reason: 'unreachable',
    })
  })
})
