// `vmspool vm console` in a real terminal (tmux), with a guest that sends back what is typed: what goes there, what comes back, and that the
// terminal is as it was, however it ends.
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { uuidOfVm } from '../../src/domain/index.ts'
import type { VmRecord } from '../../src/vm/types.ts'
import { vmspool } from '../support/agent.ts'
import { echoDomain, LINE, writeEchoDisk } from '../support/echo-guest.ts'
import { isRoot, type Libvirtd, privateLibvirtd } from '../support/libvirtd.ts'
import { type TempDir, tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'
import { expectClean, type Pane, pane } from '../tui/pane.ts'
import { record } from '../vm/records.ts'
import { cli } from './run.ts'

const CONNECTED = 'Connected to web. Ctrl+] leaves.'

describe.runIf(isRoot)('the console', () => {
  let daemon: Libvirtd
  let dir: TempDir
  let p: Pane
  /** the terminal's settings before anything ran in it */
  let line: string
  const uri = () => daemon.uri('qemu:///system')
  const args = () => ['--root', dir.path]

  /** a registry as an agent leaves it, and the domain that it names, running */
  async function guest(name: string, more: Partial<VmRecord> = {}): Promise<void> {
    const disk = join(dir.path, `${name}.raw`)
    const xml = join(dir.path, `${name}.xml`)
    const uuid = uuidOfVm('default', name)
    writeEchoDisk(disk)
    await writeFile(xml, echoDomain(name, disk, { uuid }))
    await daemon.virsh(uri(), 'define', xml)
    await daemon.virsh(uri(), 'start', name)
    await enter(record(name, { uuid, host: hostname(), uri: uri(), ...more }))
  }
  async function enter(r: VmRecord): Promise<void> {
    const vms = join(dir.path, 'default/output/vms')
    await mkdir(vms, { recursive: true })
    const file = { schema: 1, revision: 1, instance: 'default', host: hostname(), vms: { [r.name]: r } }
    await writeFile(join(vms, 'vms.json'), JSON.stringify(file))
  }
  const open = async (...more: string[]): Promise<void> => {
    await p.type(`clear; ${vmspool} vm console web ${[...args(), ...more].join(' ')}`)
    await p.keys('Enter')
  }
  /** typed until it comes back: the guest may still be on its way */
  const answers = (text: string): Promise<unknown> =>
    until(
      `the guest sends back ${text}`,
      async () => {
        await p.type(text)
        return (await p.screen()).includes(text)
      },
      { every_ms: 300 },
    )

  beforeAll(async () => {
    dir = await tempDir()
    daemon = await privateLibvirtd()
    await guest('web')
    p = await pane(dir.path, { columns: 100, rows: 30 })
    line = await p.line()
  })
  afterAll(async () => {
    await p?.[Symbol.asyncDispose]()
    await daemon?.[Symbol.asyncDispose]()
    await dir?.[Symbol.asyncDispose]()
  })

  test('every key goes to the guest, Ctrl+] leaves, and the next one finds the guest where it was', {
    timeout: 600_000,
  }, async () => {
    await open()
    await p.sees(CONNECTED)
    expect(await p.line()).not.toBe(line)
    await answers('first')
    await p.keys('C-c', 'C-z', 'C-d', 'C-\\')
    await answers('still here')
    await p.keys('C-]')
    expect(await p.prompt()).toBe(0)
    await expectClean(p, line)

    await open('--escape', '^A')
    await p.sees('Ctrl+A leaves')
    await answers('again')
    await p.type('!')
    await until('all lines came', async () => (await p.screen()).split(LINE.trim()).length > 25)
    await answers('after them')
    await p.keys('C-]')
    await p.keys('C-a')
    expect(await p.prompt()).toBe(0)
    await expectClean(p, line)
  })

  test('TERM and HUP; somebody who takes it; the end of libvirt', { timeout: 600_000 }, async () => {
    for (const [signal, code] of [
      ['SIGTERM', 143],
      ['SIGHUP', 129],
    ] as const) {
      await open()
      await p.sees(CONNECTED)
      await until('its terminal is raw', async () => (await p.line()) !== line)
      process.kill(await p.program(), signal)
      expect([signal, await p.prompt()]).toEqual([signal, code])
      await expectClean(p, line)
    }

    await open()
    await p.sees(CONNECTED)
    await answers('mine')
    const second = await cli(['vm', 'console', 'web', ...args(), '--read-only'])
    expect(second).toMatchObject({
      code: 75,
      out: '',
      err: expect.stringContaining('To take it: vmspool vm console web --force'),
    })
    const out = join(dir.path, 'taken')
    const taking = execa(
      'sh',
      ['-c', `exec ${vmspool} vm console web ${args().join(' ')} --read-only --force > ${out}`],
      { reject: false },
    )
    await p.sees('was taken by somebody else')
    expect(await p.prompt()).toBe(1)
    await expectClean(p, line)
    taking.kill('SIGTERM')
    expect(await taking).toMatchObject({ exitCode: 143 })

    await open()
    await p.sees(CONNECTED)
    await answers('back')
    await daemon.signal('KILL')
    await p.sees('The connection to libvirt was lost')
    expect(await p.prompt()).toBe(74)
    await expectClean(p, line)
    await daemon.start()
  })

  test('a guest that takes nothing can be left', { timeout: 600_000 }, async () => {
    await until('libvirt has its guest again', () =>
      daemon.virsh(uri(), 'suspend', 'web').then(
        () => true,
        () => false,
      ),
    )
    await open()
    await p.sees(CONNECTED)
    for (let i = 0; i < 20; i++) await p.type('x'.repeat(1000))
    await p.keys('C-]')
    expect(await p.prompt()).toBe(0)
    await expectClean(p, line)
    // and not left to send all of that back
    await daemon.virsh(uri(), 'destroy', 'web')
    await daemon.virsh(uri(), 'start', 'web')
  })

  test('--read-only prints into a pipe, and ends with its reader; a guest that ends ends it', {
    timeout: 600_000,
  }, async () => {
    const out = join(dir.path, 'out')
    const reading = execa('sh', ['-c', `exec ${vmspool} vm console web ${args().join(' ')} -r > ${out}`], {
      reject: false,
    })
    await new Promise<void>((resolve) => reading.stderr.on('data', (d) => String(d).includes('Connected') && resolve()))
    expect((await cli(['vm', 'console', 'web', ...args(), '-r'])).code).toBe(75)
    reading.kill('SIGINT')
    expect(await reading).toMatchObject({ exitCode: 130 })
    await open()
    await p.sees(CONNECTED)
    await answers('last')
    await p.type('.')
    await p.sees('web has ended, and its console with it.')
    expect(await p.prompt()).toBe(0)
    await expectClean(p, line)
    const off = await cli(['vm', 'console', 'web', ...args(), '-r'])
    expect(off).toMatchObject({ code: 1, out: '', err: expect.stringContaining('Start it: vmspool vm start web') })

    await daemon.virsh(uri(), 'start', 'web')
    const boot = execa('sh', ['-c', `${vmspool} vm console web ${args().join(' ')} -r | head -c 5`])
    await new Promise<void>((resolve) => boot.stderr.on('data', (d) => String(d).includes('Connected') && resolve()))
    let over = false
    void boot.finally(() => {
      over = true
    })
    // it speaks at each reset; that nobody reads any more is seen with the next word
    await until('it is over', () => over || daemon.virsh(uri(), 'reset', 'web').then(() => over), { every_ms: 1500 })
    expect((await boot).stdout).toBe('READY')
    expect(await readFile(out, 'utf8')).not.toContain('Connected')
  })

  test('through ssh', { timeout: 600_000 }, async () => {
    const key = join(daemon.dir, 'key')
    await execa('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', key])
    const port = await daemon.sshd(await readFile(`${key}.pub`, 'utf8'))
    const command = join(daemon.dir, 'ssh')
    const options = '-F none -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR'
    await writeFile(command, `#!/bin/sh\nexec ssh ${options} "$@"\n`, { mode: 0o755 })
    const far = `qemu+ssh://root@127.0.0.1:${port}/system?command=${command}&keyfile=${key}&no_verify=1`
    await enter(record('web', { uuid: uuidOfVm('default', 'web'), host: 'far', uri: far }))
    await open()
    await p.sees(CONNECTED)
    await answers('from afar')
    await p.keys('C-]')
    expect(await p.prompt()).toBe(0)
    await expectClean(p, line)
  })
})
