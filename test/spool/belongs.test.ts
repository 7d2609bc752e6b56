// Root in the spool of a service: what it wrote there, agents of that user could neither read nor move.
import { chown, mkdir, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { ownRoot } from '../../src/client/run-place.ts'
import { layoutOf, openSpool } from '../../src/spool/index.ts'
import { startCommand } from '../../src/spool/start-command.ts'
import { cli } from '../cli/run.ts'
import { tempDir } from '../support/temp.ts'

const root = process.geteuid?.() === 0
const somebody = 54_321

/** A spool as its service has it. */
async function spoolOfSomebody(dir: string) {
  const layout = layoutOf({ root: dir, instance: 'x' })
  await openSpool({ layout, create: true })
  for (const name of await readdir(layout.jobs)) await chown(join(layout.jobs, name), somebody, somebody)
  await chown(layout.jobs, somebody, somebody)
  return layout
}

test.runIf(root)(
  'root runs no agent and no command in the spool of another user, and leaves nothing there',
  async () => {
    await using dir = await tempDir()
    const layout = await spoolOfSomebody(dir.path)
    const all = async () => (await readdir(dir.path, { recursive: true })).sort()
    const before = await all()
    for (const args of [
      ['agent', 'x'],
      ['agent', 'x', '--worker'],
      ['run', '--instance', 'x', '--', 'true'],
    ]) {
      const r = await cli([...args.slice(0, 1), '--root', dir.path, ...args.slice(1)])
      expect([args, r.code]).toEqual([args, 77])
      expect(r.err).toContain(`as root, but the spool "x" belongs to uid ${somebody}`)
    }
    expect(await all()).toEqual(before)

    // Without a word about where, commands of root go where those of users go.
    const env = { HOME: '/root', XDG_DATA_HOME: '/root/data' }
    expect(ownRoot('x', env, dir.path)).toBe('/root/data/vmspool')
    expect(ownRoot('y', env, dir.path)).toBe(dir.path)
    await chown(layout.jobs, 0, 0)
    expect(ownRoot('x', env, dir.path)).toBe(dir.path)
  },
)

test.runIf(root)('a folder that root adds to the spool of another user is that user’s', async () => {
  await using dir = await tempDir()
  const layout = layoutOf({ root: dir.path, instance: 'x' })
  await mkdir(layout.jobs, { recursive: true })
  await chown(layout.jobs, somebody, somebody)
  await openSpool({ layout, create: true })
  expect(await stat(layout.claimed)).toMatchObject({ uid: somebody, gid: somebody })
  expect(await stat(layout.output)).toMatchObject({ uid: 0 })
})

test('an agent is started by its unit where there is one, else by hand', async () => {
  await using dir = await tempDir()
  const installed = { root: '/var/lib/vmspool', instance: 'vsphere' }
  const byHand = 'vmspool agent vsphere --root /var/lib/vmspool'
  expect(startCommand(installed, {})).toBe(byHand)
  expect(startCommand(installed, { folders: [dir.path] })).toBe(byHand)
  await mkdir(join(dir.path, 'agent@.service'))
  expect(startCommand(installed, { folders: ['/nowhere', dir.path] })).toBe('systemctl start agent@vsphere')
  expect(startCommand({ ...installed, root: '/srv' }, { folders: [dir.path] })).toBe(
    'vmspool agent vsphere --root /srv',
  )
  expect(startCommand({ ...installed, instance: 'default' }, { folders: [dir.path] })).toContain(
    'vmspool agent default',
  )
})
