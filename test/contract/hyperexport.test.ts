// The real client's protocol, end to end: scripted `hyperexport`s against a real agent and the real qemu-img.
import { mkdir, readdir, readFile, stat, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { type Bed, bed, control } from '../support/agent.ts'
import { holds, makeDisk, type TestDisk } from '../support/disks.ts'
import { type ArtifactManifest, artifactManifest, commandManifest, writeManifest } from '../support/manifests.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'
import { hyperexport, type HyperexportOptions, type PipelineResult } from './hyperexport.ts'

/** One export as HyperSDK leaves it: a folder of its own, the disk, and the manifest under its constant name. */
interface Export {
  vm: string | undefined
  disk: TestDisk
  manifestPath: string
}

async function exported(
  dir: string,
  folder: string,
  vm: string | undefined,
  change: (m: ArtifactManifest) => object = (m) => m,
): Promise<Export> {
  const path = join(dir, `export-${folder}`)
  await mkdir(path)
  const disk = await makeDisk(path, `${folder}-disk-0`, { size_mib: 4 })
  return { vm, disk, manifestPath: await writeManifest(path, change(artifactManifest(vm, [disk]))) }
}

/** With the real client's own interval: it first looks five seconds after its drop, and takes what it finds then. */
function client(b: Bed, e: Export, more: Partial<HyperexportOptions> = {}): Promise<PipelineResult> {
  return hyperexport({
    watchDir: b.layout.queue,
    outputDir: b.layout.output,
    manifestPath: e.manifestPath,
    pollMs: 5000,
    timeoutMs: 120_000,
    ...more,
  })
}

/** The client's manifest left the queue: from here on the next client may use the same name. */
const taken = (b: Bed) =>
  until('the drop is taken', async () => !(await readdir(b.layout.queue)).includes('artifact-manifest.json'), {
    every_ms: 5,
  })

async function inTurn(b: Bed, starts: (() => Promise<PipelineResult>)[]): Promise<PipelineResult[]> {
  const running: Promise<PipelineResult>[] = []
  for (const start of starts) {
    running.push(start())
    running.at(-1)!.catch(() => {})
    await until('the client has dropped its manifest', async () => (await drops(b)) >= running.length, { every_ms: 5 })
    await taken(b)
  }
  return Promise.all(running)
}

/** How many manifests were dropped so far: in the queue, or accepted. */
async function drops(b: Bed): Promise<number> {
  const waiting = (await readdir(b.layout.queue)).filter((f) => f === 'artifact-manifest.json').length
  const intake = (await readdir(b.layout.intake, { recursive: true })).filter((f) => /\/[0-9A-Z]{26}--/.test(f)).length
  return waiting + intake + (await readdir(b.layout.outputJobs)).length
}

describe.concurrent('hyperexport', () => {
  test('five clients, five VMs, one constant file name: success, failure, no source, a stale result', {
    timeout: 600_000,
  }, async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    const exports = [
      await exported(dir.path, 'web', 'web'),
      await exported(dir.path, 'db', 'db', (m) => {
        m.disks[0]!.checksum = `sha256:${'0'.repeat(64)}`
        return m
      }),
      await exported(dir.path, 'nosource', undefined, ({ source: _, ...m }) => m),
      await exported(dir.path, 'mail', 'mail'),
      await exported(dir.path, 'cache', 'cache', (m) => {
        m.disks[0]!.bytes += 1
        m.disks[0]!.checksum = `sha256:${'1'.repeat(64)}`
        return m
      }),
    ]
    await b.start()
    // Last week's answers: an image under the name of a job that will succeed and of one that will fail, and an error.
    const lastWeek = new Date(Date.now() - 7 * 86_400_000)
    for (const file of ['mail.qcow2', 'mail.error', 'cache.qcow2', 'web.error']) {
      await writeFile(join(b.layout.output, file), 'last week')
      await utimes(join(b.layout.output, file), lastWeek, lastWeek)
    }
    const [web, db, nosource, mail, cache] = await inTurn(
      b,
      exports.map((e) => () => client(b, e, { nilCheck: true })),
    )
    const out = (name: string) => join(b.layout.output, name)
    expect(web).toMatchObject({ success: true, outputPath: out('web.qcow2') })
    expect(nosource).toMatchObject({ success: true, outputPath: out('vm.qcow2') })
    expect(mail).toMatchObject({ success: true, outputPath: out('mail.qcow2') })
    expect(await holds(out('web.qcow2'), 'qcow2', exports[0]!.disk)).toBe(true)
    expect(await holds(out('vm.qcow2'), 'qcow2', exports[2]!.disk)).toBe(true)
    expect(await holds(out('mail.qcow2'), 'qcow2', exports[3]!.disk)).toBe(true)
    expect(await holds(out('mail.qcow2'), 'qcow2', exports[0]!.disk)).toBe(false)
    for (const [failed, name] of [
      [db, 'db'],
      [cache, 'cache'],
    ] as const) {
      expect(failed!.success).toBe(false)
      expect(failed!.error).toMatch(/^daemon processing failed: .*disk-0/s)
      await expect(stat(out(`${name}.qcow2`))).rejects.toThrow('ENOENT')
    }
    for (const name of ['web', 'vm', 'mail']) await expect(stat(out(`${name}.error`))).rejects.toThrow('ENOENT')
    // The earlier answers are moved away, not deleted: one of them may be the only copy of a VM.
    const kept = async () => (await readdir(b.layout.superseded, { recursive: true })).map((f) => f.split('/').at(-1))
    const old = ['mail.qcow2', 'mail.error', 'cache.qcow2', 'web.error']
    await until('the earlier answers are put away', async () => {
      const files = await kept()
      return old.every((f) => files.includes(f))
    })
  })

  test('two clients export one VM: both get the disk of the job that was accepted last', {
    timeout: 600_000,
  }, async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    const first = await exported(dir.path, 'one', 'web')
    const second = await exported(dir.path, 'two', 'web')
    await b.start()
    // Paused, so that the first is not done before the second is there.
    await control(b, 'pause')
    const results = inTurn(b, [() => client(b, first), () => client(b, second)])
    const accepted = async () =>
      (await readdir(b.layout.new)).length +
      (await readdir(b.layout.claimed, { recursive: true })).filter((f) => f.endsWith('.json')).length
    await until('both are accepted', async () => (await accepted()) === 2)
    await control(b, 'resume')
    for (const r of await results) {
      expect(r).toMatchObject({ success: true })
      expect(await holds(r.outputPath!, 'qcow2', second.disk)).toBe(true)
    }
    // The first one's disk is not lost: it is found under its job's id.
    const images = (await readdir(b.layout.output, { recursive: true })).filter(
      (f) => f.endsWith('web.qcow2') && f !== 'web.qcow2' && !f.startsWith('.work'),
    )
    expect(images).toHaveLength(1)
    expect(await holds(join(b.layout.output, images[0]!), 'qcow2', first.disk)).toBe(true)
  })

  test('an agent that is busy answers each client rightly', { timeout: 600_000 }, async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { concurrency: { weight: 2 } })
    const exports = await Promise.all(['a', 'b', 'c', 'd', 'e'].map((vm) => exported(dir.path, vm, vm)))
    await b.start()
    const burn = 'for (const end = Date.now() + 700; Date.now() < end;) Math.sqrt(2)'
    await Promise.all(
      Array.from({ length: 6 }, (_, i) =>
        writeFile(
          join(b.layout.queue, `load-${i}.json`),
          JSON.stringify(commandManifest(`load-${i}`, [process.execPath, '-e', burn])),
        ),
      ),
    )
    await until('the load is accepted', async () => (await eventsOf(b, 'accepted')) === 6)
    const results: Promise<PipelineResult>[] = []
    for (const e of exports) {
      const before = await eventsOf(b, 'accepted')
      results.push(client(b, e))
      await until('it is accepted', async () => (await eventsOf(b, 'accepted')) > before, { every_ms: 5 })
    }
    for (const [i, r] of (await Promise.all(results)).entries()) {
      expect(r).toMatchObject({ success: true })
      expect(await holds(r.outputPath!, 'qcow2', exports[i]!.disk)).toBe(true)
    }
  })

  test('five clients in one instant: a manifest overwritten before it could be taken is lost, none is answered wrongly', {
    timeout: 600_000,
  }, async () => {
    // Nothing in a shared folder can bring back what a client overwrote before anybody could read it. What is promised:
    // every drop that was taken is answered, with its own disk, and the last writer's is always taken.
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    const exports = await Promise.all(['a', 'b', 'c', 'd', 'e'].map((vm) => exported(dir.path, vm, vm)))
    await b.start()
    // whoever looks after every drop that was taken has been answered, and finds nothing, never will
    const hopeless = async (): Promise<boolean> => {
      const [dropped, taken, over] = [await drops(b), await eventsOf(b, 'accepted'), await eventsOf(b, 'finished')]
      return dropped === taken && taken > 0 && over === taken
    }
    const results = await Promise.all(exports.map((e) => client(b, e, { timeoutMs: 300_000, hopeless })))
    const answered = results.filter((r) => r.success)
    expect(answered.length).toBeGreaterThan(0)
    expect(answered.length).toBe(await eventsOf(b, 'accepted'))
    for (const [i, r] of results.entries()) {
      if (r.success) expect(await holds(r.outputPath!, 'qcow2', exports[i]!.disk)).toBe(true)
      else expect(r.error).toMatch(/^daemon processing timeout/)
    }
  })

  test('without an agent the client times out and its manifest stays; the next agent converts it', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    const e = await exported(dir.path, 'web', 'web', (m) => m)
    expect(await client(b, e)).toMatchObject({
      success: false,
      error: expect.stringContaining('daemon watch directory not found'),
    })
    await (await b.start()).stop()
    expect(await client(b, e, { pollMs: 1000, timeoutMs: 1500 })).toMatchObject({
      success: false,
      error: 'daemon processing timeout after 0.025m',
    })
    expect(await readdir(b.layout.queue)).toEqual(['artifact-manifest.json'])
    await b.start()
    const image = join(b.layout.output, 'web.qcow2')
    await until('the image is there', () => stat(image).catch(() => undefined))
    expect(await holds(image, 'qcow2', e.disk)).toBe(true)
  })

  test('a manifest without source makes the released client panic before it submits anything', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    const e = await exported(dir.path, 'x', undefined, ({ source: _, ...m }) => m)
    await b.start()
    await expect(client(b, e)).rejects.toThrow('nil pointer')
    expect(await readdir(b.layout.queue)).toEqual([])
  })
})

async function eventsOf(b: Bed, event: string): Promise<number> {
  const text = await readFile(join(b.layout.daemon, 'events.jsonl'), 'utf8').catch(() => '')
  // the last line may be being written
  return text.split('\n').filter((line) => line.endsWith('}') && JSON.parse(line).event === event).length
}
