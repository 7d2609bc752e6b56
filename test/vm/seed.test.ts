// The cloud-init seed: what it says, and the image that the real programs make and read of it.
import { mkdir, readdir, readFile, rm, stat, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import fc from '../support/fc.ts'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { seedFiles, writeSeed } from '../../src/vm/seed.ts'
import type { CloudInit } from '../../src/vm/types.ts'
import { tempDir } from '../support/temp.ts'
import { recordingHooks } from './hooks.ts'

const UUID = '6f1d4a52-0f6e-4d5c-9a53-0c2f5f3a7b01'
const files = (cloud_init: Partial<CloudInit> = {}, macs?: string[]) =>
  seedFiles({ instance_id: UUID, cloud_init: { hostname: 'web', ...cloud_init }, ...(macs ? { macs } : {}) })
// cloud-init reads YAML 1.1
const read = (text: string) => parse(text, { version: '1.1' }) as Record<string, unknown>
const id = (f: ReturnType<typeof files>) => read(f['meta-data'])['instance-id']

describe('what the seed says', () => {
  test('a host name alone', () => {
    const f = files({ hostname: 'web.example.org' })
    expect(f['user-data'].split('\n')[0]).toBe('#cloud-config')
    expect(read(f['user-data'])).toEqual({ hostname: 'web', fqdn: 'web.example.org' })
    expect(read(f['meta-data'])).toEqual({
      'instance-id': expect.stringMatching(new RegExp(`^${UUID}-[0-9a-f]{16}$`)),
      'local-hostname': 'web.example.org',
    })
    expect(f['network-config']).toBeUndefined()
  })

  test('a user of its own, root, or the user of the image', () => {
    const ssh_keys = ['ssh-ed25519 AAAA me@here # not a comment']
    expect(read(files({ user: 'ops', ssh_keys, password_hash: '$6$x' })['user-data'])).toMatchObject({
      users: [{ name: 'ops', ssh_authorized_keys: ssh_keys, hashed_passwd: '$6$x', lock_passwd: false }],
    })
    expect(read(files({ user: 'root', ssh_keys })['user-data'])).toMatchObject({
      disable_root: false,
      users: [{ name: 'root', ssh_authorized_keys: ssh_keys }],
    })
    const own = read(files({ ssh_keys, password_hash: '$6$x' })['user-data'])
    expect(own).toMatchObject({ ssh_authorized_keys: ssh_keys, password: '$6$x', chpasswd: { expire: false } })
    expect(own.users).toBeUndefined()
  })

  test('packages and commands come out as they went in, whatever YAML thinks of them', () => {
    const packages = ['no', '08', '1:30', 'on', '~', '0x1f', '.inf', 'a: b', '- c', '#d', '!!int 3', '&x', '*y']
    const run = ['echo "a: b"\n# c\n\ttab', ['sh', '-c', 'yes', '1e3', '']]
    expect(read(files({ packages, run })['user-data'])).toMatchObject({ packages, package_update: true, runcmd: run })
    // a text that YAML 1.1 takes for a command, and one that is no text
    for (const key of ['<<', '\ud800'])
      for (const meta_data of [{ [key]: 'x' }, { x: key }])
        expect(() => files({ meta_data })).toThrow(/cannot be written as YAML/)
  })

  test('cloud-init’s own reader of YAML finds every text as it was', async () => {
    const character = fc.oneof(
      fc.constantFrom(...'-:#&*!|>%@`\'"{}[],?~yn=< \n\t\r0', 'no', '1:30', '0x1', '...', '---', '<<', ': ', ' #'),
      fc.constantFrom(
        ...[0, 7, 0x1b, 0x7f, 0x85, 0x9f, 0xa0, 0xad, 0x2028, 0xfeff, 0xfffe].map((n) => String.fromCodePoint(n)),
      ),
      fc.integer({ min: 0x20, max: 0x10ffff }).map((n) => String.fromCodePoint(n).toWellFormed()),
    )
    const texts = fc
      .sample(fc.array(character, { maxLength: 8 }), 300)
      .map((t) => t.join(''))
      .filter((t) => t !== '<<')
    texts.push('=', '~', '', 'a\n\n b\n', '\na', ' a', 'a ', '2024-01-01', '08', '.5', '1_000')
    const docs = texts.map((t) => files({ run: [t, [t]], meta_data: t === '' ? {} : { [t]: t } }))
    const program =
      'import json, sys, yaml\nd = lambda t: yaml.safe_load(t.encode())\n' +
      'print(json.dumps([[d(f["user-data"])["runcmd"], [x for x in d(f["meta-data"]).items() if x[0] not in ("instance-id", "local-hostname")]] for f in json.load(sys.stdin)]))'
    const { stdout } = await execa('python3', ['-c', program], { input: JSON.stringify(docs) })
    expect(JSON.parse(stdout)).toEqual(texts.map((t) => [[t, [t]], t === '' ? [] : [[t, t]]]))
  })

  test('the network of the first card by its address, the others by DHCP', () => {
    const macs = ['52:54:00:00:00:01', '52:54:00:00:00:02']
    const network = { address: '192.0.2.10/24', gateway: '192.0.2.1', nameservers: ['192.0.2.2'] }
    expect(read(files({ network }, macs)['network-config']!)).toEqual({
      version: 2,
      ethernets: {
        first: {
          match: { macaddress: macs[0] },
          dhcp4: false,
          addresses: ['192.0.2.10/24'],
          routes: [{ to: '0.0.0.0/0', via: '192.0.2.1' }],
          nameservers: { addresses: ['192.0.2.2'] },
        },
        card2: { match: { macaddress: macs[1] }, dhcp4: true, optional: true },
      },
    })
    const own = { version: 1, config: [{ type: 'physical', name: 'eth0' }] }
    expect(read(files({ network: { config: own } })['network-config']!)).toEqual(own)
    expect(read(files({ network: { config: { network: own } } })['network-config']!)).toEqual(own)
    expect(read(files({ network: { nameservers: ['192.0.2.2'] } }, macs)['network-config']!)).toMatchObject({
      ethernets: { first: { dhcp4: true } },
    })
    expect(() => files({ network: { config: { ethernets: {} } } })).toThrow(/names no version/)
    expect(() => files({ network: { gateway: '192.0.2.1' } })).toThrow(/gateway but no address/)
    expect(() => files({ network: { address: '2001:db8::2/64', gateway: '192.0.2.1' } })).toThrow(/not of one kind/)
  })

  test('user-data as it is, when cloud-init would take it', () => {
    const script = '#!/bin/sh\r\necho "hello"\n'
    expect(files({ user_data: script })['user-data']).toBe(script)
    for (const first of [
      '#cloud-config',
      '#cloud-boothook',
      '#include',
      '## template: jinja',
      'Content-Type: multipart/mixed;',
    ])
      expect(files({ user_data: `${first}\n` })['user-data']).toBe(`${first}\n`)
    expect(() => files({ user_data: 'packages: [nginx]\n' })).toThrow(/begins with "packages: \[nginx\]".*take nothing/)
  })

  test('a changed seed has another instance id, the same seed the same', () => {
    const ids = [
      files(),
      files({ hostname: 'web2' }),
      files({ packages: ['nginx'] }),
      files({ network: { nameservers: ['192.0.2.2'] } }),
      files({ meta_data: { x: 1 } }),
      files({ user_data: '#cloud-config\n' }),
      seedFiles({ instance_id: UUID.replace('6', '7'), cloud_init: { hostname: 'web' } }),
    ].map(id)
    expect(new Set(ids).size).toBe(ids.length)
    expect(id(files())).toBe(ids[0])
    expect(id(files({ meta_data: { 'instance-id': 'mine' } }))).toBe('mine')
  })
})

describe('the image', () => {
  const read_ = async (iso: string, name: string, to: string): Promise<string> => {
    await rm(to, { force: true })
    await execa('xorriso', ['-indev', iso, '-osirrox', 'on', '-extract', `/${name}`, to])
    return readFile(to, 'utf8')
  }

  test('holds the files under their names, for its owner alone, and is the same again', async () => {
    await using dir = await tempDir()
    const hooks = recordingHooks()
    const path = join(dir.path, 'seed.iso')
    const cloud_init: CloudInit = {
      hostname: 'web',
      user_data: '#cloud-config\npassword: secret é\n',
      network: { address: '192.0.2.9/24' },
    }
    const o = { path, name: 'web', instance_id: UUID, cloud_init, hooks }
    await writeSeed(o)
    expect((await stat(path)).mode & 0o777).toBe(0o600)
    expect(await readdir(dir.path)).toEqual(['seed.iso'])
    const want = seedFiles(o)
    for (const [name, text] of Object.entries(want)) expect(await read_(path, name, join(dir.path, 'out'))).toBe(text)
    await rm(join(dir.path, 'out'))
    const bytes = await readFile(path)
    expect(bytes.toString('latin1', 32_768 + 40, 32_768 + 72).trim()).toBe('CIDATA')
    // once more: nothing is done; elsewhere and later: the same bytes
    const { mtimeMs, ino } = await stat(path)
    const { children } = hooks
    await writeSeed(o)
    expect(await stat(path)).toMatchObject({ mtimeMs, ino })
    expect(hooks.children).toBe(children)
    await mkdir(join(dir.path, 'other'))
    await writeSeed({ ...o, path: join(dir.path, 'other/seed.iso') })
    expect(await readFile(join(dir.path, 'other/seed.iso'))).toEqual(bytes)
    // changed: written anew
    await writeSeed({ ...o, cloud_init: { ...cloud_init, hostname: 'web2' } })
    expect((await readFile(path)).equals(bytes)).toBe(false)
    expect((await readdir(dir.path)).sort()).toEqual(['other', 'seed.iso'])
  }, 600_000)

  test('an interrupted one leaves nothing, and no program is a sentence', async () => {
    await using dir = await tempDir()
    const path = join(dir.path, 'seed.iso')
    const o = { path, name: 'web', instance_id: UUID, cloud_init: { hostname: 'web' } }
    const reason = new Error('enough')
    await expect(writeSeed({ ...o, hooks: recordingHooks({ onSpawned: (h) => h.abort(reason) }) })).rejects.toBe(reason)
    expect(await readdir(dir.path)).toEqual([])
    const before = process.env.PATH
    process.env.PATH = join(dir.path, 'nothing')
    try {
      await expect(writeSeed({ ...o, hooks: recordingHooks() })).rejects.toMatchObject({
        ...{ name: 'VmError', code: 'storage', phase: 'seed' },
        hint: expect.stringContaining('Install xorriso'),
      })
    } finally {
      process.env.PATH = before
    }
    expect(await readdir(dir.path)).toEqual([])
  })

  test('genisoimage does where xorriso is missing', async () => {
    await using dir = await tempDir()
    const bin = join(dir.path, 'bin')
    await mkdir(bin)
    const { stdout } = await execa('which', ['genisoimage'])
    await symlink(stdout, join(bin, 'genisoimage'))
    const path = join(dir.path, 'seed.iso')
    const o = { path, name: 'web', instance_id: UUID, cloud_init: { hostname: 'web' }, hooks: recordingHooks() }
    const before = process.env.PATH
    process.env.PATH = bin
    try {
      await writeSeed(o)
      const { ino } = await stat(path)
      await writeSeed(o)
      expect((await stat(path)).ino).toBe(ino)
    } finally {
      process.env.PATH = before
    }
    expect((await stat(path)).mode & 0o777).toBe(0o600)
    expect(await read_(path, 'user-data', join(dir.path, 'out'))).toBe(seedFiles(o)['user-data'])
  }, 600_000)
})
