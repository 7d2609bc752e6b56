import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { expect, test } from 'vitest'

const home = resolve(import.meta.dirname, '../..')

test('the JSON Schemas that are checked in are those of the code', () => {
  const run = spawnSync(process.execPath, ['scripts/schemas.ts', '--check'], { cwd: home, encoding: 'utf8' })
  expect(run.stderr).toBe('')
  expect(run.status).toBe(0)
})

test('the schema of a manifest allows unknown fields, that of the configuration does not', () => {
  const schema = (name: string) => JSON.parse(readFileSync(resolve(home, `schemas/${name}.schema.json`), 'utf8'))
  expect(schema('convert').additionalProperties).toEqual({})
  expect(schema('convert').required).toEqual(['manifest_version', 'disks'])
  expect(schema('config').additionalProperties).toBe(false)
  expect(schema('status').properties.state.enum).toContain('retrying')
  expect(schema('manifest').anyOf).toHaveLength(5)
})
