"""CloudFormation templates: what their resources are for given parameters."""

import yaml


class Loader(yaml.SafeLoader):
    pass


def intrinsic(loader, suffix, node):
    """A short form, such as !Ref, as the mapping that it stands for."""
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        if suffix == "GetAtt":
            value = value.split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {suffix if suffix in ("Ref", "Condition") else "Fn::" + suffix: value}


Loader.add_multi_constructor("!", intrinsic)

NO_VALUE = object()


def load(path):
    return yaml.load(path.read_text(), Loader)


def is_intrinsic(node):
    return isinstance(node, dict) and len(node) == 1 and next(iter(node)).startswith(("Ref", "Fn::"))


def parameters(template, given):
    values = {}
    for name, parameter in template["Parameters"].items():
        value = given.get(name, parameter.get("Default"))
        if value is None:
            raise ValueError(f"no value of the parameter {name}")
        values[name] = value.split(",") if parameter["Type"].startswith("List<") else value
    return values


class Evaluation:
    """A reference to a resource becomes its logical id in angle brackets, whatever the attribute."""

    def __init__(self, template, given, pseudo):
        self.template = template
        self.values = parameters(template, given) | pseudo
        self.values["AWS::NoValue"] = NO_VALUE

    def reference(self, name):
        if name in self.values:
            return self.values[name]
        logical = name.split(".")[0]
        if logical not in self.template["Resources"]:
            raise ValueError(f"a reference to {name}, which is nothing")
        return f"<{logical}>"

    def substitute(self, argument):
        text, local = (argument, {}) if isinstance(argument, str) else argument
        local = {name: self.value(node) for name, node in local.items()}
        parts = text.split("${")
        result = parts[0]
        for part in parts[1:]:
            name, _, rest = part.partition("}")
            result += str(local[name] if name in local else self.reference(name)) + rest
        return result

    def condition(self, node):
        if isinstance(node, str):
            return self.condition(self.template["Conditions"][node])
        ((function, arguments),) = node.items()
        if function == "Fn::Not":
            return not self.condition(arguments[0])
        if function == "Fn::Or":
            return any(self.condition(argument) for argument in arguments)
        if function == "Fn::Equals":
            return self.value(arguments[0]) == self.value(arguments[1])
        raise ValueError(f"{function} is not known here")

    def value(self, node):
        if is_intrinsic(node):
            ((function, argument),) = node.items()
            if function == "Ref":
                return self.reference(argument)
            if function == "Fn::Sub":
                return self.substitute(argument)
            if function == "Fn::GetAtt":
                return self.reference(".".join(argument))
            if function == "Fn::If":
                return self.value(argument[1 if self.condition(argument[0]) else 2])
            if function == "Fn::FindInMap":
                name, first, second = (self.value(part) for part in argument)
                return self.template["Mappings"][name][first][second]
            raise ValueError(f"{function} is not known here")
        if isinstance(node, dict):
            values = {name: self.value(inner) for name, inner in node.items()}
            return {name: value for name, value in values.items() if value is not NO_VALUE}
        if isinstance(node, list):
            values = [self.value(inner) for inner in node]
            return [value for value in values if value is not NO_VALUE]
        return node

    def resources(self):
        """Returns (type, properties) by logical id."""
        return {
            logical: (resource["Type"], self.value(resource["Properties"]))
            for logical, resource in self.template["Resources"].items()
            if "Condition" not in resource or self.condition(resource["Condition"])
        }
