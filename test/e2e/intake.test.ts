// Whatever is dropped, and however: each drop is answered, and the agent keeps running.
import { mkdir, open, readdir, readFile, rename, stat, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { execa } from 'execa'
import { describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { bed } from '../support/agent.ts'
import { holds, makeDisk } from '../support/disks.ts'
import { artifactManifest, commandManifest } from '../support/manifests.ts'
import { answerFiles, drop, endOf, eventsOf, readJson } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

const hello = ['sh', '-c', 'exit 0']

describe.concurrent('intake', () => {
  test('JSON and YAML, in one piece and in many', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { intake: { yaml_quiet: '10s' } })
    await b.start()
    await drop(b, stringify(commandManifest('from-yaml', hello)), 'a.yaml')
    await drop(b, stringify(commandManifest('from-yml', hello)), 'b.yml')
    const pieces = async (file: string, text: string, pause: number) => {
      await using f = await open(join(b.layout.queue, file), 'w')
      for (let at = 0; at < text.length; at += 20) {
        await f.write(text.slice(at, at + 20))
        await sleep(pause)
      }
    }
    const labels = Object.fromEntries(Array.from({ length: 5 }, (_, i) => [`step-${i}`, `value ${i}`]))
    await Promise.all([
      pieces('slow.json', JSON.stringify(commandManifest('in-pieces', hello), null, 2), 40),
      // Half of this one is valid YAML at nearly every moment.
      pieces(
        'slow.yaml',
        stringify(
          commandManifest('yaml-in-pieces', hello, {
            labels,
          }),
        ),
        40,
      ),
    ])
    for (const name of ['from-yaml', 'from-yml', 'in-pieces', 'yaml-in-pieces']) {
      expect(await endOf(b, name)).toMatchObject({ state: 'succeeded', name })
    }
    // The answer is there a moment before its record is.
    const file = await until('all records are done', async () => {
      const files = (await readdir(b.layout.done)).map((f) => join(b.layout.done, f))
      return files.length === 4 ? files : undefined
    })
    const records = await Promise.all(file.map((f) => readJson<{ manifest: { name: string; labels?: object } }>(f)))
    const whole = records.filter((r) => r?.manifest.name === 'yaml-in-pieces')
    expect(whole).toHaveLength(1)
    expect(Object.keys(whole[0]!.manifest.labels ?? {})).toHaveLength(5)
  })

  test('a name that is overwritten while its predecessor runs is a second job', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    const go = join(dir.path, 'go')
    const wait = ['sh', '-c', `while [ ! -e ${go} ]; do sleep 0.05; done`]
    await writeFile(join(b.layout.queue, 'artifact-manifest.json'), JSON.stringify(commandManifest('first', wait)))
    await until('the first runs', async () => (await eventsOf(b, 'started')).length === 1)
    await writeFile(join(b.layout.queue, 'artifact-manifest.json'), JSON.stringify(commandManifest('second', hello)))
    expect(await endOf(b, 'second')).toMatchObject({ state: 'succeeded' })
    await writeFile(go, '')
    expect(await endOf(b, 'first')).toMatchObject({ state: 'succeeded' })
    expect(await readdir(b.layout.queue)).toEqual([])
  })

  test('a writer that kept its file open and writes a second manifest into it has made a second drop', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { intake: { raw_keep: '8s' } })
    await b.start()
    await using file = await open(join(b.layout.queue, 'kept-open.json'), 'w')
    await file.write(JSON.stringify(commandManifest('one', hello)))
    await until('the first is accepted', async () => (await eventsOf(b, 'accepted')).length === 1)
    await file.truncate(0)
    await file.write(JSON.stringify(commandManifest('two', hello)), 0)
    expect(await endOf(b, 'one')).toMatchObject({ state: 'succeeded' })
    expect(await endOf(b, 'two')).toMatchObject({ state: 'succeeded' })
  })

  test('twelve hundred drops at once, half of them before any agent ran', { timeout: 600_000 }, async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { intake: { bare_disks: 'off' } })
    await (await b.start()).stop()
    const put = (i: number) =>
      writeFile(
        join(b.layout.queue, `m${i}.json`),
        JSON.stringify(commandManifest(`m${i}`, ['true'], { not_before: '2099-01-01T00:00:00Z' })),
      )
    await Promise.all(Array.from({ length: 600 }, (_, i) => put(i)))
    await b.start()
    await Promise.all(Array.from({ length: 600 }, (_, i) => put(600 + i)))
    await until('all are held', async () => (await readdir(b.layout.held)).length === 1200, {
      deadline_ms: 500_000,
      every_ms: 200,
    })
    const keys = new Set((await readdir(b.layout.held)).map((f) => f.split('-')[3]))
    expect(keys.size).toBe(1200)
    expect(await readdir(b.layout.queue)).toEqual([])
  })

  test('hostile and odd drops are rejected one by one with a reason, and the agent goes on', {
    timeout: 600_000,
  }, async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, {
      intake: { incomplete_after: '500ms', yaml_quiet: '100ms', file_stable_timeout: '500ms' },
    })
    const agent = await b.start()
    const q = (name: string) => join(b.layout.queue, name)
    const secret = join(dir.path, 'secret')
    await writeFile(secret, 'do not read me')
    const bomb = [
      'a: &a [x,x,x,x,x,x,x,x,x]',
      ...'bcdefghi'.split('').map((c, i) => `${c}: &${c} [${`*${'abcdefghi'[i]},`.repeat(8)}*${'abcdefghi'[i]}]`),
    ].join('\n')
    await symlink(secret, q('link.json'))
    await mkdir(q('folder.json'))
    await execa('mkfifo', [q('fifo.json')])
    {
      // Sparse: 2 GiB that cost nothing to write and must cost nothing to refuse.
      await using huge = await open(join(b.layout.queue, '.huge'), 'w')
      await huge.truncate(2 ** 31)
    }
    await rename(q('.huge'), q('huge.json'))
    await writeFile(q('not-utf8.json'), Buffer.from('{"kind":"command","name":"\xff\xfe"}', 'latin1'))
    await drop(b, bomb, 'bomb.yaml')
    await drop(
      b,
      '{"kind":"command","name":"proto","command":{"argv":["true"]},"__proto__":{"polluted":true}}',
      'proto.json',
    )
    await drop(b, '{"kind":"command","name":"first","name":"second","command":{"argv":["true"]}}', 'duplicate.json')
    await drop(b, '{"kind":"command","name":"cut","command":', 'cut.json')
    await drop(b, '', 'empty.json')
    await drop(b, artifactManifest('../../escape', [await makeDisk(dir.path, 'e', { size_mib: 4 })]), 'escape.json')
    await drop(b, commandManifest('kindless', ['true'], { kind: 'comand' }), 'typo.json')

    // Those whose manifest cannot be read are answered under `vm`, which all share, and under their own stem.
    const stems = ['link', 'folder', 'fifo', 'huge', 'not-utf8', 'bomb', 'cut', 'empty']
    for (const stem of stems) {
      const status = await endOf(b, stem)
      expect(status, stem).toMatchObject({ state: 'rejected' })
      expect((await readFile(join(b.layout.output, `${stem}.error`), 'utf8')).length, stem).toBeGreaterThan(30)
    }
    const drops = [...stems, 'proto', 'duplicate', 'escape', 'typo']
    await until(
      'every drop is answered once',
      async () => {
        const rejected = (await eventsOf(b, 'finished')).filter((e) => e.state === 'rejected')
        return drops.every((d) => rejected.some((e) => JSON.stringify(e).includes(`${d}.`)))
      },
      { also: agent.output },
    )
    expect(({} as { polluted?: boolean }).polluted).toBeUndefined()
    await expect(stat(join(dir.path, 'escape.error'))).rejects.toThrow('ENOENT')
    // Left where they are: never followed, never opened.
    expect((await readdir(b.layout.queue)).sort()).toEqual(['fifo.json', 'folder.json', 'link.json'])
    expect(await readFile(secret, 'utf8')).toBe('do not read me')
    const leaked = await execa('grep', ['-rl', 'do not read me', b.layout.output, b.layout.jobs], { reject: false })
    expect(leaked.stdout).toBe('')

    expect(agent.alive()).toBe(true)
    await drop(b, commandManifest('after', hello))
    expect(await endOf(b, 'after')).toMatchObject({ state: 'succeeded' })
  })

  test('bare disks become jobs, sources move to .processed or .errors; an export in place stays one job', {
    timeout: 600_000,
  }, async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { intake: { file_stable_timeout: '8s' }, retry: { max_attempts: 0 } })
    await b.start()
    const lone = await makeDisk(dir.path, 'lone', { size_mib: 4 })
    const named = await makeDisk(dir.path, 'named', { size_mib: 4 })
    await execa('cp', [lone.path, join(b.layout.queue, 'lone.vmdk')])
    // Whole, and refused: an image that would read a file of the host.
    await execa('qemu-img', [
      'create',
      '-f',
      'qcow2',
      '-b',
      '/etc/hostname',
      '-F',
      'raw',
      join(b.layout.queue, 'broken.qcow2'),
      '1M',
    ])
    // The export writes its disk first, slowly, and then the manifest that names it.
    await execa('cp', [named.path, join(b.layout.queue, 'named.vmdk')])
    await drop(b, artifactManifest('export', [{ ...named, path: join(b.layout.queue, 'named.vmdk') }]))
    expect(await endOf(b, 'export')).toMatchObject({ state: 'succeeded' })
    expect(await endOf(b, 'lone')).toMatchObject({ state: 'succeeded' })
    expect(await holds(join(b.layout.output, 'export.qcow2'), 'qcow2', named)).toBe(true)
    expect(await holds(join(b.layout.output, 'lone.qcow2'), 'qcow2', lone)).toBe(true)
    expect((await endOf(b, 'broken')).state).toMatch(/failed|rejected/)
    const queue = await until('the sources are put away', async () => {
      const files = await readdir(b.layout.queue, { recursive: true })
      return files.some((f) => /^\.processed\/\d{4}-\d\d-\d\d\/lone\.vmdk$/.test(f)) ? files : undefined
    })
    expect(queue).toContain('named.vmdk')
    expect(await answerFiles(b, 'named')).toEqual([])
    expect(queue).toEqual(expect.arrayContaining(['.errors/broken.qcow2', '.errors/broken.qcow2.error.json']))
  })
})
