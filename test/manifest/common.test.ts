import { describe, expect, test } from 'vitest'
import { answerNameOf, type CommandManifest, safeName } from '../../src/manifest/index.ts'
import { accepted, errorsOf, minimal, parse, warningsOf } from './samples.ts'

describe('common fields', () => {
  test('durations become milliseconds beside the original', () => {
    const { manifest } = accepted({
      ...minimal,
      timeout: '1h30m',
      retry: { delay: '5m' },
      not_before: '2026-05-01T22:00:00+02:00',
    })
    expect(manifest).toMatchObject({
      timeout: '1h30m',
      timeout_ms: 5_400_000,
      retry: { delay: '5m', delay_ms: 300_000 }, // the rest comes from the agent's configuration
      not_before_ms: Date.UTC(2026, 4, 1, 20),
    })
  })

  test('what a job comes after is a list of jobs and how they must have ended', () => {
    const read = (value: unknown) => accepted({ ...minimal, after: value }).manifest.after
    expect(read('build')).toEqual([{ job: 'build', when: 'success' }])
    expect(read({ job: 'build', when: 'failure' })).toEqual([{ job: 'build', when: 'failure' }])
    expect(read(['a', { job: 'b' }, { job: 'c', when: 'always' }])).toEqual([
      { job: 'a', when: 'success' },
      { job: 'b', when: 'success' },
      { job: 'c', when: 'always' },
    ])
    const once = read(['a', { job: 'b', when: 'failure' }])
    expect(read(once)).toEqual(once)
    for (const wrong of [7, [7], { when: 'always' }, { job: 'a', when: 'soon' }])
      expect(Object.keys(errorsOf(parse({ ...minimal, after: wrong }))).join()).toMatch(/^after/)
  })

  test('a partial retry is completed from the defaults of the agent', () => {
    const defaults = { priority: 7, retry: { max_attempts: 9, delay_ms: 1000, factor: 3 } }
    const { manifest } = accepted({ ...minimal, retry: { factor: 1.5 } }, { defaults })
    expect(manifest.retry).toEqual({ max_attempts: 9, delay_ms: 1000, factor: 1.5 })
    expect(manifest.priority).toBe(7)
    expect(accepted(minimal, { defaults }).manifest.retry).toBeUndefined()
  })

  test.each([
    [{ priority: 10 }, 'priority'],
    [{ priority: '5' }, 'priority'],
    [{ timeout: '5x' }, 'timeout'],
    [{ timeout: -1 }, 'timeout'],
    [{ timeout: [] }, 'timeout'],
    [{ retry: { max_attempts: -1 } }, 'retry.max_attempts'],
    [{ retry: { delay: 'soon' } }, 'retry.delay'],
    [{ retry: { factor: 0.5 } }, 'retry.factor'],
    [{ retry: 3 }, 'retry'],
    [{ not_before: 'tomorrow' }, 'not_before'],
    [{ not_before: '2026-02-30T00:00:00Z' }, 'not_before'],
    [{ not_before: '2026-05-01T22:00:00' }, 'not_before'],
    [{ labels: { a: 1 } }, 'labels.a'],
    [{ name: 'a/b' }, 'name'],
  ])('%j is an error of %s', (change, path) => {
    expect(Object.keys(errorsOf(parse({ ...minimal, ...change })))).toEqual([path])
  })

  test('a timeout of 0 is none', () => {
    expect(accepted({ ...minimal, timeout: 0 }).manifest.timeout_ms).toBeUndefined()
  })

  test('who submitted a job is not for the submitter to say', () => {
    const outcome = accepted({ ...minimal, submitter: { uid: 0 } })
    expect(outcome.manifest).not.toHaveProperty('submitter')
    expect(warningsOf(outcome).map((d) => d.path)).toEqual(['submitter'])
  })
})

describe('kinds and dialects', () => {
  test.each([
    ['a near miss', { kind: 'Command', command: { argv: ['true'] } }, 'kind', 'Did you mean|must be one of'],
    ['no kind', { hello: 1 }, '', 'This is no manifest'],
    ['a block without its kind', { command: { argv: ['true'] } }, '', 'add "kind": "command"'],
    ['VMs on a hypervisor', { hypervisor: 'vmware', vmware: { vm_name: 'x' } }, 'hypervisor', 'connects to none'],
    ['several of them', { defaults: { hypervisor: 'vmware' }, vms: [{ vm_name: 'x' }] }, 'defaults', 'older form'],
    ['a list of them', { vms: [{ vmware: { vm_name: 'x' } }] }, 'vms', 'Export them first'],
  ])('%s is named', (_name, data, path, message) => {
    const outcome = parse(data)
    expect(outcome.state).toBe('invalid')
    expect(errorsOf(outcome)[path]).toMatch(new RegExp(message))
  })

  test('vm and maintenance have schemas', () => {
    expect(accepted({ kind: 'vm', action: 'start', name: 'web' }).manifest.kind).toBe('vm')
    expect(accepted({ kind: 'maintenance', task: 'health' }).manifest.kind).toBe('maintenance')
    expect(errorsOf(parse({ kind: 'vm', action: 'begin' }))).toHaveProperty('action')
  })

  test('only a conversion is answered under "vm"', () => {
    expect(answerNameOf(accepted({ kind: 'command', command: { argv: ['true'] } }).manifest)).toBeUndefined()
    expect(answerNameOf(accepted({ ...minimal, name: 'a', source: { vm_name: 'b' } }).manifest)).toBe('b')
    expect(answerNameOf(accepted({ ...minimal, name: 'a', source: {} }).manifest)).toBe('a')
  })
})

describe('command', () => {
  const command = (c: unknown) => parse({ kind: 'command', command: c })

  test('a shell line becomes an argv', () => {
    const { manifest } = accepted({ kind: 'command', command: { shell: 'echo $HOME' } })
    expect((manifest as CommandManifest).command.argv).toEqual(['/bin/sh', '-c', 'echo $HOME'])
  })

  test.each([
    [{}, 'command'],
    [undefined, 'command'],
    [{ argv: [] }, 'command.argv'],
    [{ argv: ['a\0b'] }, 'command.argv[0]'],
    [{ argv: ['x'.repeat(131_072)] }, 'command.argv[0]'],
    [{ argv: 'true' }, 'command.argv'],
    [{ argv: ['true'], shell: 'true' }, 'command.shell'],
    [{ argv: ['true'], cwd: 'here' }, 'command.cwd'],
    [{ argv: ['true'], expected_exit_codes: [256] }, 'command.expected_exit_codes[0]'],
    [{ argv: ['true'], env: { A: 1 } }, 'command.env.A'],
  ])('%j is an error of %s', (c, path) => {
    expect(Object.keys(errorsOf(command(c)))).toEqual([path])
  })

  test('a name with "=" cannot be set in an environment', () => {
    expect(command({ argv: ['true'], env: { 'A=B': 'x' } }).state).toBe('invalid')
  })
})

describe('names of answers', () => {
  test.each(['web', 'web 01', 'wéb', 'a'.repeat(200), 'web.qcow2', '-rf', 'jobs2', 'vm:1', '日本'])(
    '%j is safe',
    (name) => {
      expect(safeName(name)).toBe(true)
    },
  )
  test.each([
    '',
    '.',
    '..',
    '.hidden',
    '../x',
    'a/b',
    '/etc',
    'a\0b',
    'a\nb',
    'a\u001bb',
    'a\u0085b',
    'é'.repeat(101),
    '\ud800',
    'jobs',
    'vms',
    'superseded',
  ])('%j is not safe, and says why', (name) => {
    expect(safeName(name)).toBe(false)
    if (name === '') return
    const outcome = parse({ ...minimal, source: { vm_name: name } })
    expect(errorsOf(outcome)['source.vm_name']).toContain('cannot name the answer files')
    expect(outcome).not.toHaveProperty('partial.answer')
  })

  test('who asked is told even when the manifest is wrong', () => {
    expect(parse({ source: { vm_name: 'web' }, manifest_version: '9' })).toMatchObject({
      partial: { answer: 'web', kind: 'convert' },
    })
    expect(parse({ manifest_version: '9' })).toMatchObject({ partial: { answer: 'vm', kind: 'convert' } })
    expect(parse({ kind: 'command', name: 'nightly' })).toMatchObject({
      partial: { answer: 'nightly', kind: 'command' },
    })
    expect(parse('{"source": {"vm_name": "web"}, "disks": [}')).toMatchObject({
      state: 'invalid',
      partial: { answer: 'web' },
    })
  })
})
