// The quick way to a spool's folders says what the whole configuration says, or nothing.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { loadConfig } from '../../src/config/index.ts'
import { quickPlaces } from '../../src/config/quick.ts'
import { tempDir } from '../support/temp.ts'

async function both(file: string | undefined, env: Record<string, string> = {}, root?: string) {
  await using dir = await tempDir()
  if (file !== undefined) writeFileSync(join(dir.path, 'agent@vs.yaml'), file)
  const all = { VMSPOOL_CONFIG_DIR: dir.path, HOME: dir.path, ...env }
  const quick = quickPlaces({ instance: 'vs', root, env: all })
  const { config } = loadConfig({ instance: 'vs', root, env: all })
  return {
    quick,
    whole: { root: config.root, queue: config.queue, output: config.output, history: config.history.path },
  }
}

describe('quickPlaces', () => {
  test.each([
    ['no file', undefined, {}, undefined],
    ['a template', '# root: /srv/x\n  # output: /y\n\n', {}, undefined],
    ['settings that are no folders', 'log:\n  level: debug\nretention: { done: 9d }\n', {}, undefined],
    ['--root', undefined, { VMSPOOL_ROOT: '/srv/one' }, '/srv/two/../three//'],
    ['variables', undefined, { VMSPOOL_ROOT: '/srv/one/', VMSPOOL_HISTORY_PATH: '/var/h.db' }, undefined],
  ])('answers with %s', async (_what, file, env, root) => {
    const { quick, whole } = await both(file, env as Record<string, string>, root)
    expect(quick).toBeDefined()
    expect({ queue: undefined, output: undefined, history: undefined, ...quick }).toEqual(whole)
  })

  test.each([
    ['a root', 'root: /srv/x\n', {}],
    ['an output, in braces', '{"output": "/srv/out"}\n', {}],
    ['a key spelled with an escape', '"\\x6futput": /srv/out\n', {}],
    ["another system's key", 'watch_dir: /srv/in\n', {}],
    ['a variable for the output', undefined, { VMSPOOL_OUTPUT: '/srv/out' }],
    ["another system's variable", undefined, { VMSPOOL_WATCH_DIR: '/srv/in' }],
  ])('leaves %s to the whole configuration', async (_what, file, env) => {
    const { quick, whole } = await both(file, env as Record<string, string>)
    expect(quick).toBeUndefined()
    expect(whole.root + whole.queue + whole.output).toContain('/srv/')
  })

  test('leaves to it what is wrong, for it says how', () => {
    const at = (o: Partial<Parameters<typeof quickPlaces>[0]>) => quickPlaces({ instance: 'vs', env: {}, ...o })
    expect(at({ instance: '../x' })).toBeUndefined()
    expect(at({ env: { VMSPOOL_OUTPTU: '/x' } })).toBeUndefined()
    expect(at({ env: { VMSPOOL_ROOT: 'relative' } })).toBeUndefined()
    expect(at({ configFile: '/does/not/exist.yaml' })).toBeUndefined()
  })
})
